"""Check graphs with collectives without a GPU: what is read, planned, proved and computed, and what stays serial."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture, explain
from graphstreams.pipeline.what_holds import what_holds
from graphstreams.reports.report import Report
from graphstreams.runtime.ranks import current_rank, folder_of_rank, on_rank
from graphstreams.verification.trace import CALLER, FinishStep, StartStep
from graphstreams.verification.wrapper.read import read_bodies, verify
from tests.support import ranks_on_cpu
from tests.support.collective_modules import (
    FUNCTIONAL,
    GROUP,
    SMALL,
    DecoderLayer,
    EveryKind,
    InPlace,
    OfViews,
    TwoSums,
    fake_ranks,
    linear,
    wait,
)
from tests.support.fork_server import last_line_forked


def captured(module: nn.Module, *inputs: Tensor, ranks: int = 2, **options: Any) -> GraphCompilation:
    with fake_ranks(ranks):
        (found,) = capture(module, inputs, "h200", {**SMALL, **options})
    return found


@functools.cache
def layer(grouped: bool) -> GraphCompilation:
    module = DecoderLayer(2048, 1024, grouped=grouped).bfloat16()
    return captured(module, torch.empty(8, 2048, dtype=torch.bfloat16), ranks=8)


def named(graph: KernelGraph, part: str) -> list[int]:
    return [kernel.id for kernel in graph.kernels if part in kernel.name or part in " ".join(kernel.launches)]


def before(graph: KernelGraph, kernel: int) -> set[int]:
    """Return all that has to come before a kernel."""
    found: set[int] = set()
    pending = [kernel]
    while pending:
        for other in graph.predecessors()[pending.pop()]:
            if other not in found:
                found.add(other)
                pending.append(other)
    return found


def calls(compilation: GraphCompilation) -> list[list[Any]]:
    """Return the collectives of both bodies in order: operators and arguments, or what is waited for."""
    return [
        [
            (s.name, s.arguments if isinstance(s, StartStep) else s.collectives)
            for s in trace.steps
            if isinstance(s, StartStep | FinishStep)
        ]
        for trace in read_bodies(compilation.report.wrapper)
    ]


CASES: dict[str, Callable[[], GraphCompilation]] = {
    "two sums": lambda: captured(TwoSums(), torch.empty(8, 64)),
    "every kind": lambda: captured(EveryKind(), torch.empty(8, 64)),
    "of views": lambda: captured(OfViews(), torch.empty(8, 64)),
    "in place": lambda: captured(InPlace(), torch.empty(8, 64), torch.empty(8, 64)),
    "experts in a batch": lambda: layer(False),
    "experts in groups": lambda: layer(True),
}


@pytest.mark.parametrize("name", CASES)
def test_graphs_with_collectives_run_on_streams(name: str) -> None:
    found = CASES[name]()
    report = found.report
    assert report.verdict == "clean", report.reason
    assert report.kernels_streamed == report.kernels_serial
    assert verify(report.wrapper) == []
    streamed, serial = calls(found)
    assert streamed == serial and len(serial) >= 4
    steps = [s for trace in read_bodies(report.wrapper) for s in trace.steps if isinstance(s, StartStep | FinishStep)]
    assert {step.stream for step in steps} == {CALLER}
    assert not report.direct  # nothing was measured, so the host launches the serial code


def test_starts_and_waits_are_kernels_of_their_own_in_serial_order() -> None:
    graph = CASES["two sums"]().reading.kernels  # type: ignore[union-attr]
    collectives = [kernel for kernel in graph.kernels if kernel.collective]
    assert [(k.collective, k.kind, k.group) for k in collectives] == [
        ("start", "collective", GROUP), ("wait", "wait", ""), ("start", "collective", GROUP), ("wait", "wait", ""),
    ]  # fmt: skip
    assert not any(kernel.exclusive for kernel in graph.kernels)
    reduced, awaited = collectives[0], collectives[1]
    assert {a.storage for a in reduced.writes} & {a.storage for a in awaited.writes}
    # The product beside the sum depends on neither, and comes before neither by the edges.
    (beside,) = named(graph, "b")[:1]
    assert beside not in before(graph, awaited.id) and reduced.id not in before(graph, beside)


def test_what_a_collective_reads_is_not_overwritten_before_the_wait() -> None:
    """Inductor's wait knows one input: of an operator that is given several, and of one with `out`, all count here."""

    class Gathers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(64), linear(64)

        def forward(self, x: Tensor, out: Tensor, cache: Tensor) -> Any:
            a = self.a(x)
            FUNCTIONAL.all_gather_into_tensor_out(cache, 2, GROUP, out=out)
            gathered = wait(out)
            cache.mul_(2)
            return gathered + 1, self.b(x) + a

    found = captured(Gathers(), torch.empty(8, 64), torch.empty(16, 64), torch.empty(8, 64))
    assert found.report.verdict == "clean", found.report.reason
    graph = found.reading.kernels  # type: ignore[union-attr]
    (start,), (awaited,) = ([k for k in graph.kernels if k.collective == role] for role in ("start", "wait"))
    cache = {a.storage for a in start.reads} - {a.storage for a in awaited.writes}
    assert cache and cache <= {a.storage for a in awaited.reads}
    (writer,) = (k for k in graph.kernels if not k.collective and cache & {a.storage for a in k.writes})
    assert awaited.id in before(graph, writer.id)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_shared_expert_runs_beside_the_router_and_the_routed_experts(grouped: bool) -> None:
    graph = layer(grouped).reading.kernels  # type: ignore[union-attr]
    (router,) = named(graph, "router")
    (top,) = named(graph, "topk")
    routed = named(graph, "_grouped_mm" if grouped else "extern_kernels.bmm")
    assert routed
    for shared in (*named(graph, "shared_up"), *named(graph, "shared_gate")):
        for other in (router, top, *routed):
            assert other not in before(graph, shared) and shared not in before(graph, other)
    if not grouped:  # all experts see all tokens, so the first product does not need the router
        assert router not in before(graph, routed[0]) and routed[0] not in before(graph, router)
    plan = layer(grouped).report.plan
    assert plan is not None
    places = {place.kernel: place for place in plan.placements}
    for shared in (*named(graph, "shared_up"), *named(graph, "shared_gate")):
        others = [places[other] for other in (router, top, *routed)]
        assert any(o.start_us < places[shared].end_us and places[shared].start_us < o.end_us for o in others)


def test_the_report_says_what_runs_beside_a_collective() -> None:
    module = TwoSums(2048).bfloat16()
    report = captured(module, torch.empty(8, 2048, dtype=torch.bfloat16)).report
    first, second = report.as_dict()["collectives"]
    assert "b" in first["beside"] and first["idle_us"] < first["us"]
    assert second["idle_us"] <= second["us"]
    assert any("collectives have the order of the serial code" in note for note in report.notes)


class Behind(nn.Module):
    """A product that the serial code runs behind the wait for a collective, on which it does not depend."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = linear(width), linear(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reduced = wait(FUNCTIONAL.all_reduce(self.a(x), "sum", GROUP)) * 2
        return reduced, self.b(x)


def test_another_order_on_one_stream_may_be_the_gain() -> None:
    """Inductor's own pass, which would move the wait, is off here."""
    with config.patch({"aten_distributed_optimizations.enable_simple_overlap": False, "reorder_for_peak_memory": False}):
        found = captured(Behind(2048).bfloat16(), torch.empty(8, 2048, dtype=torch.bfloat16), streams=2, event_us=1.0)
    plan, report = found.report.plan, found.report
    assert report.verdict == "clean" and plan is not None, report.reason
    assert plan.streams == 1 and plan.streamed_us < 0.9 * plan.serial_us
    assert "us in the serial code's order" in str(report) and "stream1" not in report.wrapper
    names = [place.name for place in plan.placements]
    assert names.index("all_reduce") < names.index("b") < names.index("wait_tensor")


def test_what_the_serial_code_hides_already_is_said_to_be_hidden() -> None:
    kernels = (
        Kernel(0, "a", "gemm"),
        Kernel(1, "sum", "collective", collective="start"),
        Kernel(2, "b", "gemm"),
        Kernel(3, "wait", "wait", collective="wait"),
    )
    graph = KernelGraph("g", kernels, (Edge(0, 1, EdgeKind.RAW), Edge(1, 3, EdgeKind.RAW)))
    text = what_holds(graph, (5.0, 10.0, 6.0, 0.0), 0.02)
    assert text.startswith("what its longest path leaves runs beside a collective in the serial code already")
    assert "'sum' (66.7%)" in text  # 10 of 15 us


class Bad(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.function = linear(64), linear(64), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.a(x), x), self.b(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda a, x: FUNCTIONAL.all_gather_into_tensor(a, 2, GROUP),
            "nothing in the graph waits for _c10d_functional.all_gather",
        ),
        (lambda a, x: wait(x) + a, "waits for a collective that the graph did not start"),
        (lambda a, x: torch.ops._c10d_functional.isend(a, 1, 0, GROUP) + 1, "isend.default communicates with other ranks"),
        (lambda a, x: torch.ops._dtensor.shard_dim_alltoall(a, 0, 1, GROUP) + 1, "communicates with other ranks"),
        (lambda a, x: torch.ops.symm_mem.one_shot_all_reduce(a, "sum", GROUP) + 1, "memory that other ranks reach"),
    ],
)
def test_what_reaches_other_ranks_in_another_way_stays_serial(function: Any, reason: str) -> None:
    report = captured(Bad(function), torch.empty(8, 64)).report
    assert (report.verdict, report.stage) == ("serial", "read"), report.reason
    assert reason in report.reason


def test_a_wait_for_what_was_already_awaited_goes() -> None:
    """Inductor takes it out in every graph, after the custom pass; explaining does so too."""
    found = captured(Bad(lambda a, x: wait(wait(FUNCTIONAL.all_reduce(a, "sum", GROUP))) + 1), torch.empty(8, 64))
    assert found.report.verdict == "clean", found.report.reason
    assert [len(own) for own in calls(found)] == [2, 2]


def test_settings_that_move_or_join_collectives_are_named() -> None:
    with config.patch({"bucket_all_reduces_fx": "all", "aten_distributed_optimizations.enable_simple_overlap": True}):
        notes = captured(TwoSums(), torch.empty(8, 64)).report.notes
    assert any("not run here, though on: bucket_all_reduces_fx" in note for note in notes)
    assert any("enable_simple_overlap" in note and "off on streams" in note for note in notes)


def test_overlap_scheduling_which_times_collectives_is_off_without_a_gpu() -> None:
    with config.patch({"aten_distributed_optimizations.enable_overlap_scheduling": True}), fake_ranks():
        report = explain(TwoSums(), [torch.empty(8, 64)], "h200", SMALL)
    assert report.verdict == "clean", report.reason
    assert any("nothing can be run: aten_distributed_optimizations.enable_overlap_scheduling" in note for note in report.notes)


def test_a_setting_that_may_be_why_collectives_differ_is_named() -> None:
    passes = ["reorder_communication_preserving_peak_memory"]
    settings = {"reorder_for_compute_comm_overlap": True, "reorder_for_compute_comm_overlap_passes": passes}
    with config.patch(settings):
        report = captured(EveryKind(), torch.empty(8, 64)).report
    assert report.verdict != "clean" and "reorder_for_compute_comm_overlap" in report.reason, report.reason


def test_a_process_group_that_is_not_known_is_said_to_be_assumed() -> None:
    (found,) = capture(TwoSums(), [torch.empty(8, 64)], "h200", SMALL)
    text = "collectives of '0' are priced for 2 ranks: this process has no such process group"
    assert text in found.report.notes
    assert text not in captured(TwoSums(), torch.empty(8, 64)).report.notes


def test_without_a_process_group_there_is_no_rank() -> None:
    assert (current_rank(), folder_of_rank(), on_rank("0_inference")) == (None, ".", "0_inference")
    with fake_ranks(4):
        assert (current_rank(), folder_of_rank(), on_rank("0_inference")) == (0, "rank0", "rank 0: 0_inference")


def test_reports_of_ranks_do_not_overwrite_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from graphstreams import StreamPass

    done = StreamPass({"dump": str(tmp_path)})._done
    with fake_ranks(), caplog.at_level(logging.WARNING, "graphstreams"):
        done(Report("0_inference", "serial", "why", "plan"))
    assert json.loads((tmp_path / "rank0" / "0_inference" / "report.json").read_text())["reason"] == "why"
    assert caplog.messages == ["graphstreams: rank 0: 0_inference runs serially: plan: why"]


def test_two_ranks_compute_serial_bits_with_different_plans(tmp_path: Path) -> None:
    """With real collectives, over gloo: one rank has a plan of 2 streams, the other one of up to 4, and a third is mixed.

    All cases are one test, because to start the ranks takes longer than a case.
    """
    program = "import sys; from tests.support import ranks_on_cpu; ranks_on_cpu.main(int(sys.argv[1]), sys.argv[2])"
    with ThreadPoolExecutor(2) as pool:
        lines = list(pool.map(lambda rank: last_line_forked(program, str(rank), str(tmp_path)), range(2)))
    assert [json.loads(line) for line in lines] == [dict.fromkeys(ranks_on_cpu.CASES, "equal")] * 2


@pytest.mark.parametrize("setting", ["_pre_fusion_custom_pass", "_post_fusion_custom_pass"])
def test_a_pass_that_may_reorder_kernels_keeps_collectives_serial(setting: str) -> None:
    module, inputs = TwoSums(), (torch.empty(8, 64),)
    with config.patch({setting: lambda nodes: nodes}):
        report = captured(module, *inputs).report
    assert (report.verdict, report.stage) == ("serial", "read")
    assert setting in report.reason
    assert captured(module, *inputs).report.verdict == "clean"
