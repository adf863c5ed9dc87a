"""Check that what other passes place on streams is taken out of the code that runs, and that the report says so."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from graphstreams import StreamPass
from graphstreams.benchmark.bits import equal_bits
from graphstreams.errors import StreamsRemain
from graphstreams.inductor import stream_ops
from graphstreams.inductor.wrapper_registry import SEEN
from graphstreams.rewriting.placed_streams import placed_streams, without_streams
from graphstreams.runtime import verdicts
from graphstreams.testing.cpu_execution import run_on_cpu
from graphstreams.verification.trace import CALLER, launch_order
from graphstreams.verification.wrapper.read import read_bodies, verify
from tests.support.sample_modules import compiled_by_pass

MM = torch.ops.aten.mm.default
Pass = Callable[[fx.GraphModule], None]


def nothing(gm: fx.GraphModule) -> None:
    pass


def second_product(gm: fx.GraphModule) -> fx.Node:
    return list(gm.graph.find_nodes(op="call_function", target=MM))[1]


def move_a_product(gm: fx.GraphModule) -> None:
    stream_ops.set_stream(second_product(gm), 1)


def bare_operations(gm: fx.GraphModule) -> None:
    """Around a product on another stream, as nodes that nothing depends on."""
    product = second_product(gm)
    stream_ops.set_stream(product, 1)
    with gm.graph.inserting_before(product):
        gm.graph.call_function(stream_ops.RECORD, (0, 0))
        gm.graph.call_function(stream_ops.WAIT, (0, 1))
    with gm.graph.inserting_after(product):
        wait = gm.graph.call_function(stream_ops.WAIT, (1, 0))
    with gm.graph.inserting_before(wait):
        gm.graph.call_function(stream_ops.RECORD, (1, 1))


def ordered_operations(gm: fx.GraphModule) -> None:
    """Return the same in `control_deps`, the join behind the product."""
    product = second_product(gm)
    (first,) = gm.graph.find_nodes(op="placeholder")[:1]
    stream_ops.set_stream(product, 1)
    with gm.graph.inserting_before(product):
        fork = stream_ops.ordered(gm, stream_ops.RECORD, 0, 0, [first])
        stream_ops.ordered(gm, stream_ops.WAIT, 0, 1, [fork])
    with gm.graph.inserting_before(product.next):
        done = stream_ops.ordered(gm, stream_ops.RECORD, 1, 1, [product])
        stream_ops.ordered(gm, stream_ops.WAIT, 1, 0, [done])


PASSES = {move_a_product: 1, bare_operations: 5, ordered_operations: 5}


def launches_and_lines(source: str) -> list[str]:
    """Return the function that is called, without comments, which name the graph."""
    start = source.index("def call(")
    return [line for line in source[start : source.index("benchmark")].splitlines() if not line.lstrip().startswith("#")]


@pytest.mark.parametrize("sample", ["diamond", "three_arms", "write_after_read"])
@pytest.mark.parametrize("behind", PASSES)
def test_streams_that_a_pass_behind_ours_placed_are_refused_and_the_code_is_serial(behind: Pass, sample: str) -> None:
    report, lowered, plain = compiled_by_pass(sample, behind)
    assert (report.verdict, report.stage) == ("refused", "verify")
    assert f"a pass behind this one placed {PASSES[behind]} nodes on streams" in report.reason
    assert "taken out" in report.reason
    assert launches_and_lines(lowered.source) == launches_and_lines(plain)  # the same launches in the same order
    (trace,) = read_bodies(lowered.source)
    assert set(launch_order(trace)) == {CALLER} and verify(lowered.source) == []
    for word in ("call_on_streams", "ops.streams", "_get_stream_by_index", "stream1", ".record("):
        assert word not in lowered.source
    assert verdicts.NAME in lowered.source  # the code says from a cache too why it is serial


@pytest.mark.parametrize("behind", PASSES)
def test_what_inductor_tells_of_the_graph_is_what_it_tells_of_the_serial_one(behind: Pass) -> None:
    """If an input is changed that may move, there is no CUDA graph."""
    for sample in ("diamond", "write_after_read"):
        ours, expected = (compiled_by_pass(sample, each)[1].graph for each in (behind, nothing))
        assert list(ours.mutated_inputs) == list(expected.mutated_inputs)
        assert ours.mutated_input_idxs == expected.mutated_input_idxs


@pytest.mark.parametrize("behind", PASSES)
def test_the_inputs_that_serial_code_copies_if_they_are_misaligned_are_copied(behind: Pass) -> None:
    """Inductor aligns them before the call only if the lowered graph doesn't say that the code does."""
    _, lowered, plain = compiled_by_pass("three_arms", behind)
    assert plain.count("= copy_if_misaligned(") == lowered.source.count("= copy_if_misaligned(") == 4
    assert lowered.graph._defers_input_alignment


def move_every_second_operator(gm: fx.GraphModule) -> None:
    for node in [node for node in gm.graph.nodes if node.op == "call_function"][::2]:
        stream_ops.set_stream(node, 1)


def test_inductor_makes_cuda_graphs_of_the_parts_that_the_serial_code_has() -> None:
    """The parts take their inputs in an order of their own, by which Inductor knows those that stay where they are."""
    with torch._inductor.config.patch({"triton.cudagraphs": True}):
        placed, expected = (compiled_by_pass("swap", each)[1].graph for each in (move_every_second_operator, nothing))
    assert placed.partition_maps == expected.partition_maps


def test_of_a_graph_whose_streams_remain_inductor_is_told_what_it_found_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphstreams.rewriting.placed_streams.disagreement", lambda *_: "something")
    seen: list[Any] = []

    def behind(gm: fx.GraphModule) -> None:
        ordered_operations(gm)
        add = gm.meta[SEEN]

        def remember(graph: Any, source: str) -> Any:
            seen.append(graph.partition_maps)
            return add(graph, source)

        gm.meta[SEEN] = remember

    report, lowered, _ = compiled_by_pass("diamond", behind)
    assert "they can't be taken out: something" in report.reason
    assert lowered.graph.partition_maps is seen[0]


def test_whatever_stops_streams_from_being_taken_out_does_not_end_the_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: fx.GraphModule) -> None:
        raise KeyError("stream")

    monkeypatch.setattr("graphstreams.rewriting.placed_streams.without_streams", fail)
    report, lowered, _ = compiled_by_pass("diamond", ordered_operations)
    assert report.verdict == "refused" and "can't be taken out: KeyError: 'stream'" in report.reason
    assert ".record(" in lowered.source or "ops.streams" in lowered.source


@pytest.mark.parametrize("behind", [nothing, move_a_product])
def test_a_graph_that_was_lowered_can_be_copied_into_a_cache(behind: Pass) -> None:
    _, lowered, _ = compiled_by_pass("diamond", behind)
    pickle.dumps(lowered.graph.module.meta.get(SEEN))


def test_subgraphs_keep_nothing_of_ours_once_their_caller_was_seen() -> None:
    inner, outer = fx.Graph(), fx.Graph()
    inner.output(inner.placeholder("x"))
    outer.output(outer.placeholder("x"))
    module = fx.GraphModule(torch.nn.Module(), outer)
    module.body = fx.GraphModule(torch.nn.Module(), inner)
    module.body.meta[SEEN] = lambda graph, source: (source, ())
    StreamPass({})(module.graph)
    assert SEEN not in module.body.meta


def test_a_graph_whose_later_passes_place_nothing_gets_its_streams() -> None:
    report, lowered, _ = compiled_by_pass("diamond", nothing)
    assert report.verdict == "clean", report.reason
    assert lowered.source == report.wrapper and "def call_on_streams(" in lowered.source


@pytest.mark.parametrize("behind", PASSES)
def test_the_graph_without_them_has_its_operators_in_the_same_order_and_computes_the_same_bits(behind: Pass) -> None:
    graph = fx.Graph()
    inputs = [graph.placeholder(name) for name in "xyz"]
    first = graph.call_function(MM, (inputs[0], inputs[1]))
    second = graph.call_function(MM, (inputs[0], inputs[2]))
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (first, second)), second))
    module = fx.GraphModule(torch.nn.Module(), graph)
    for node in graph.nodes:
        node.meta["val"] = torch.empty(4, 4)
    before = [(node.op, node.name, node.target) for node in graph.nodes]
    changed = fx.GraphModule(module, copy.deepcopy(graph))
    behind(changed)
    assert len(placed_streams(changed)) == PASSES[behind]
    plain = without_streams(changed)
    kept = [(node.op, node.name, node.target) for node in plain.graph.nodes if node.op != "get_attr"]
    assert placed_streams(plain) == [] and kept == before
    assert len(placed_streams(changed)) == PASSES[behind]  # the graph given is left as it is
    values = [torch.randn(4, 4) for _ in inputs]
    assert all(equal_bits(*pair) for pair in zip(run_on_cpu(plain, values), run_on_cpu(module, values), strict=True))


def test_a_value_that_is_passed_through_a_wait_is_read_without_it() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    product = graph.call_function(MM, (x, x))
    inner = fx.Graph()
    inside = inner.placeholder("inside")
    inner.call_function(stream_ops.WAIT, (0, 1))
    inner.output((inside,))
    module = fx.GraphModule(torch.nn.Module(), graph)
    module.waiting = fx.GraphModule(torch.nn.Module(), inner)
    waited = graph.call_function(stream_ops.control_deps, ((product,), graph.get_attr("waiting"), product))
    passed = graph.call_function(operator.getitem, (waited, 0))
    graph.output((graph.call_function(MM, (passed, x)),))
    plain = without_streams(module)
    last = [node for node in plain.graph.nodes if node.op == "call_function"][-1]
    assert [node.name for node in last.args] == [product.name, "x"]
    assert placed_streams(plain) == []


def test_a_result_of_an_operation_that_is_read_is_not_taken_out() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    record = graph.call_function(stream_ops.RECORD, (0, 0))
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (x, record)),))
    with pytest.raises(StreamsRemain, match="add_tensor reads the result of record_event_default"):
        without_streams(fx.GraphModule(torch.nn.Module(), graph))
