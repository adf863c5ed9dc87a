"""Check trap 14: operators that promise nothing keep their place on the caller's stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphstreams.benchmark.bits import equal_bits
from graphstreams.inductor import exclusivity
from graphstreams.ir.kernels import EdgeKind, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.pipeline.explain import capture
from graphstreams.planning import list_schedule
from graphstreams.reading import reader
from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.trace import CALLER, FinishStep, LaunchStep, StartStep
from graphstreams.verification.wrapper.read import read_wrapper
from tests.support import random_graphs as graphs
from tests.support.interleaving import interleavings
from tests.support.sample_modules import FREE_EVENTS, short_names
from tests.support.traps import Function, named_plan


@torch.library.custom_op("graphstreams_tests::hidden_write", mutates_args=())
def hidden_write(cache: Tensor, row: Tensor) -> Tensor:
    cache[0].copy_(row[0])
    return row.clone()


@hidden_write.register_fake
def _(cache: Tensor, row: Tensor) -> Tensor:
    return torch.empty_like(row)


def around_hidden_write(m: Any, x: Tensor, cache: Tensor) -> Any:
    return m.wa(cache), hidden_write(cache, m.wb(x)), m.wc(cache)


def neighbours(graph: KernelGraph) -> set[tuple[str, str]]:
    names = short_names(graph)
    return {(names[e.before], names[e.after]) for e in graph.edges if e.kind is EdgeKind.ORDER}


def test_trap_14_an_opaque_operator_keeps_its_place_on_the_callers_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = Function(around_hidden_write), (torch.empty(4, 64), torch.empty(8, 64))
    report = capture(module, inputs, "h200", FREE_EVENTS)[0].report
    (opaque,) = (k for k in report.kernels.kernels if "hidden_write" in k.name)
    name, others = short_names(report.kernels)[opaque.id], {"wa", "wb", "wc"}
    assert opaque.exclusive
    assert {n for pair in neighbours(report.kernels) if name in pair for n in pair} == {name, *others}
    trace = read_wrapper(report.wrapper)
    assert [s.stream for s in trace.steps if isinstance(s, LaunchStep) and "hidden_write" in s.name] == [CALLER]
    # Nothing else can help: the operator's schema says that it writes nothing, so the verifier can't know.
    monkeypatch.setattr(exclusivity, "exclusive_reason", lambda *_: "")
    trusted = capture(module, inputs, "h200", FREE_EVENTS)[0].reading.kernels
    assert not neighbours(trusted)
    assert not {e.after for e in trusted.edges if e.before == opaque.id}


def test_trap_14_a_write_that_no_schema_tells_of_keeps_its_place_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wa` reads the cache before it is written, `wc` after; both on another stream than the write."""

    def equal_in_every_order() -> bool:
        reading = capture(Function(around_hidden_write), (torch.empty(4, 64), torch.empty(8, 64)), "h200", FREE_EVENTS)[
            0
        ].reading
        module = rewrite(reading, named_plan(reading.kernels, {"wa": 1, "wb": 0, "hidden_write": 0, "wc": 1}))
        inputs = graphs.random_inputs(reading, 0)
        outputs, _ = graphs.serial(reading, inputs)
        found = list(interleavings(module, inputs, 20))
        assert len(found) == 20
        return all(one is not None and equal_bits(outputs, one[0]) for one in found)

    assert equal_in_every_order()
    monkeypatch.setattr(exclusivity, "exclusive_reason", lambda *_: "")
    assert not equal_in_every_order()


def two_collectives(m: Any, x: Tensor, y: Tensor) -> Any:
    reduced = torch.ops._c10d_functional.all_reduce(m.wa(x), "sum", "0")
    gathered = torch.ops._c10d_functional.all_gather_into_tensor(m.wb(y), 2, "0")
    wait = torch.ops._c10d_functional.wait_tensor
    return wait(reduced), wait(gathered), m.wc(x)


def ordered_with(graph: KernelGraph, kernel: int) -> set[int]:
    """Return the kernels that come before or after it by the graph's edges."""
    found: set[int] = set()
    for neighbours_of in (graph.predecessors(), graph.successors()):
        pending = list(neighbours_of[kernel])
        while pending:
            found.add(other := pending.pop())
            pending.extend(neighbours_of[other])
    return found


def test_trap_14_collectives_keep_their_order_on_the_callers_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank has to start them in one order. What else is independent of them goes where it likes."""

    def collectives() -> tuple[KernelGraph, list[int], Plan]:
        inputs = torch.empty(4, 64), torch.empty(8, 64)
        graph = capture(Function(two_collectives), inputs, "h200", FREE_EVENTS)[0].reading.kernels
        found = [k.id for k in graph.kernels if any("_c10d_functional" in launch for launch in k.launches)]
        return graph, found, list_schedule.plan_kernels(graph, [10.0] * len(graph.kernels), streams=3)

    graph, found, plan = collectives()
    assert [graph.kernels[kernel].collective for kernel in found] == ["start", "start", "wait", "wait"]
    for kernel in found:
        assert not graph.kernels[kernel].exclusive
        assert ordered_with(graph, kernel) >= set(found) - {kernel}
        assert plan.stream_of()[kernel] == CALLER
    independent = short_names(graph).index("wc")
    assert ordered_with(graph, independent) == set()
    use = reader.storage_use
    monkeypatch.setattr(reader, "storage_use", lambda kernel: replace(use(kernel), collective=False))
    graph, found, plan = collectives()
    assert found[0] not in ordered_with(graph, found[1])


def collective_between_branches(m: Any, x: Tensor, y: Tensor) -> Any:
    reduced = torch.ops._c10d_functional.all_reduce(m.wa(x).sin() @ m.wb(y).cos().t(), "sum", "0")
    return torch.ops._c10d_functional.wait_tensor(reduced) * 2, m.wc(x)


def test_trap_14_a_graph_with_a_collective_is_streamed_with_the_collective_on_the_callers_stream() -> None:
    inputs = torch.empty(4, 64), torch.empty(8, 64)
    report = capture(Function(collective_between_branches), inputs, "h200", FREE_EVENTS)[0].report
    assert report.verdict == "clean", report.reason
    trace = read_wrapper(report.wrapper)
    assert [s.stream for s in trace.steps if isinstance(s, StartStep | FinishStep)] == [CALLER, CALLER]
    assert {s.stream for s in trace.steps if isinstance(s, LaunchStep)} != {CALLER}


@pytest.mark.parametrize("namespace", ["_c10d_functional", "symm_mem", "vllm", "graphstreams_tests"])
def test_trap_14_only_pytorchs_own_computations_are_trusted(namespace: str) -> None:
    assert namespace not in exclusivity._TRUSTED
