"""Each trap of native streams that is known: with its defence the graph is sound, and without it the trap is there.

They are numbered as they were found. Traps of the GPU's own run time are in `tests/gpu`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pre_attention import pre_attention
from sample_modules import (
    FREE_EVENTS,
    STREAMABLE,
    as_on_h200,
    captured,
    kernels_of,
    lowered_serially,
    lowered_with_code,
    module_and_inputs,
    plan_by_hand,
    reading_of,
    rewritten_by_hand,
    short_names,
    streamed_text,
)
from torch import Tensor, fx
from torch._dynamo.utils import detect_fake_mode
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.fx_passes.control_dependencies import control_deps
from torch._inductor.virtualized import V

from graphstreams import Options, backend
from graphstreams.benchmark.bits import equal_bits
from graphstreams.errors import UnreadableWrapper
from graphstreams.inductor import scheduler_nodes, scheduling, stream_ops, streamed_code, wrapper_codegen
from graphstreams.inductor.conformance import _on_streams
from graphstreams.inductor.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.inductor.offline import offline
from graphstreams.inductor.settings import stream_settings
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import EdgeKind, KernelGraph
from graphstreams.ir.plan import JOIN, Plan
from graphstreams.ir.reading import Reading
from graphstreams.pipeline import run
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.outcome import Outcome, guarded
from graphstreams.pipeline.run import finish
from graphstreams.planning import build_plan, list_schedule
from graphstreams.planning.local_search import search_on_simulator
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.synchronization import check_plan
from graphstreams.reports.report import Report
from graphstreams.rewriting import regions
from graphstreams.rewriting.regions import rewrite
from graphstreams.rewriting.two_bodies import find_host
from graphstreams.runtime import streams as runtime
from graphstreams.runtime.dispatch import Dispatch
from graphstreams.testing.interleaving import interleavings
from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import CALLER, Allocate, Free, Launch, Record, Step, Trace, Wait, launch_order
from graphstreams.verification.vector_clocks import find_races
from graphstreams.verification.wrapper.read import read_wrapper, verify
from tests.verification import random_graphs as graphs

SOME = ["diamond", "topk", "norms", "two_writes", "concatenation"]
HELD_VALUES = regions.held_values


class Function(torch.nn.Module):
    """A function of three projections of 64 features and the inputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        for name in ("wa", "wb", "wc"):
            setattr(self, name, torch.nn.Linear(64, 64, bias=False))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@functools.cache
def read_function(function: Any, *rows: int) -> Reading:
    """A function's graph as kernels; its inputs have 64 features."""
    (outcome,) = capture(Function(function), [torch.empty(n, 64) for n in rows], "h200", FREE_EVENTS)
    assert outcome.reading is not None, outcome.report.reason
    return outcome.reading


def alternating(graph: KernelGraph, streams: int = 2) -> Plan:
    order = range(len(graph.kernels))
    return plan_by_hand(graph, order, {k: k % streams for k in order})


def named_plan(graph: KernelGraph, streams: dict[str, int]) -> Plan:
    """The kernels in the order given, each on its stream."""
    names = short_names(graph)
    return plan_by_hand(graph, [names.index(n) for n in streams], {names.index(n): s for n, s in streams.items()})


def report_of(reading: Reading, plan: Plan) -> Report:
    return rewritten_by_hand(reading, plan)[1].report


def refused(report: Report, why: str) -> bool:
    return (report.verdict, report.stage) == ("refused", "verify") and why in report.reason


def hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "held_values", lambda *_: [])


def plan_with(monkeypatch: pytest.MonkeyPatch, **settings: bool) -> None:
    """Let Inductor do in streamed graphs what the package switches off."""
    ours = streamed_code.stream_settings()
    monkeypatch.setattr(streamed_code, "stream_settings", lambda: {**ours, **settings})


def bare_operation(module: fx.GraphModule, operation: Any, dependencies: Any) -> fx.Node:
    """A record or a wait as a node by itself, as a pass that knows nothing of `control_deps` would add it."""
    node = module.graph.call_function(*operation)
    stream_ops.set_stream(node, operation[1][1])
    return node


def order_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to Inductor where its kernels and the stream operations come."""
    monkeypatch.setattr(stream_ops, "ordered", bare_operation)
    monkeypatch.setattr(scheduling, "order_by_stream", lambda nodes: nodes)


def kinds(trace: Trace) -> set[str]:
    return {race.kind for race in find_races(trace)}


# --- 1, 2: Dynamo's registry of streams and events


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_1_and_2_wrappers_know_no_stream_of_dynamo(sample: str) -> None:
    source = captured(sample).report.wrapper
    assert wrapper_codegen.RUNTIME_IMPORT in source
    assert not re.search(r"_get_stream_by_index|ops\.streams|torch\._dynamo\.variables|cuda\.Event\(|cuda\.Stream\(", source)


def test_trap_1_and_2_without_our_wrapper_class_they_would() -> None:
    module = copy_graph(captured("diamond").module)
    del module.meta[wrapper_codegen.MARK]
    source = lowered_with_code(module).source
    assert wrapper_codegen.RUNTIME_IMPORT not in source
    assert "_get_stream_by_index" in source
    assert "torch.ops.streams.record_event" in source


# --- 3: sync nodes that nothing depends on


def ordered_by_dependencies(module: fx.GraphModule) -> bool:
    """Whether every order of Inductor's nodes that respects their dependencies keeps each stream operation where it is.

    That is, on its side of every kernel of its stream, and each wait behind the record of its event.
    """
    wrapper_codegen.register()
    with as_on_h200(module), V.set_choices_handler(scheduling.FusionInRegions(V.choices)):
        lowered = lower(copy_graph(module), settings={**stream_settings(), **scheduling.settings(None)})
    with lowered.active():
        nodes = list(enumerate(_on_streams(lowered)))
    made_by = {name: node for _, (node, _) in nodes for name in node.get_buffer_names()}
    before: dict[Any, set[Any]] = {}
    for _, (node, _) in nodes:
        needed = {made_by[d.name] for d in node.unmet_dependencies if d.name in made_by} - {node}
        before[node] = needed.union(*(before[n] for n in needed))
    syncs = [(i, node, stream) for i, (node, stream) in nodes if scheduling.is_stream_operation(node.node)]
    for i, sync, stream in syncs:
        for j, (other, its_stream) in nodes:
            ahead, behind = (other, sync) if j < i else (sync, other)
            if i != j and stream == its_stream and ahead not in before[behind]:
                return False
    recorded = {_event(node): node for _, node, _ in syncs if "record" in node.node.op_overload._opname}
    waits = [node for _, node, _ in syncs if "wait" in node.node.op_overload._opname]
    return all(recorded[_event(wait)] in before[wait] for wait in waits)


def _event(sync: Any) -> int:
    return int(sync.node.constant_args[0])


@pytest.mark.parametrize("sample", SOME)
def test_trap_3_every_record_and_wait_is_in_a_control_deps_with_dependencies(sample: str) -> None:
    module = captured(sample).module
    assert not [n for n in module.graph.nodes if getattr(n.target, "namespace", "") == "streams"]
    nodes = module.graph.find_nodes(op="call_function", target=control_deps)
    operations = [n for n in nodes if n.name.startswith(("record_event", "wait_event"))]
    plan = captured(sample).report.plan
    assert len(operations) == sum(1 + len(event.waits) for event in plan.events)
    assert all(n.args[0] for n in operations)


@pytest.mark.parametrize("sample", ["diamond", "two_writes", "norms"])
def test_trap_3_dependencies_alone_order_what_the_plan_orders(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, plan = reading_of(sample), alternating(kernels_of(sample))
    assert ordered_by_dependencies(rewrite(reading, plan))
    with monkeypatch.context() as without:
        without.setattr(scheduling, "order_by_stream", lambda nodes: nodes)
        assert not ordered_by_dependencies(rewrite(reading, plan))
    monkeypatch.setattr(stream_ops, "ordered", bare_operation)
    assert not ordered_by_dependencies(rewrite(reading, plan))


# --- 4, 18: Inductor moves kernels after the plan was made


@pytest.mark.parametrize("sample", ["diamond", "two_writes"])
def test_trap_4_a_consumer_stays_behind_its_wait_although_inductor_moves_kernels(
    sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, plan = reading_of(sample), alternating(kernels_of(sample))
    plan_with(monkeypatch, reorder_for_peak_memory=True)
    assert report_of(reading, plan).verdict == "clean"
    order_nothing(monkeypatch)
    moved = report_of(reading, plan)
    assert refused(moved, "it is left to chance which comes first")
    assert hb.UNORDERED in kinds(read_wrapper(moved.wrapper))


def test_trap_4_and_18_kernels_that_inductor_moves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of("norms")
    plan = plan_by_hand(reading.kernels, range(5), {0: 0, 1: 1, 2: 1, 3: 0, 4: 0})
    assert report_of(reading, plan).verdict == "clean"
    plan_with(monkeypatch, reorder_for_peak_memory=True)
    moved = report_of(reading, plan)
    assert (moved.verdict, moved.stage, moved.order_kept) == ("refused", "verify", False)


def test_trap_18_memory_order_is_off_inside_streamed_code_generation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    generate = wrapper_codegen.StreamWrapperCodegen.generate

    def spy(self: Any, is_inference: bool) -> Any:
        seen.append((config.reorder_for_peak_memory, config.allow_buffer_reuse))
        return generate(self, is_inference)

    module = captured("diamond").module
    monkeypatch.setattr(wrapper_codegen.StreamWrapperCodegen, "generate", spy)
    before = (config.reorder_for_peak_memory, config.allow_buffer_reuse)
    lowered_with_code(module)
    assert before == (True, True)
    assert seen == [(False, False)]
    assert (config.reorder_for_peak_memory, config.allow_buffer_reuse) == before


# --- 5: a kernel behind the record that ends its stream


@pytest.mark.parametrize("sample", SOME)
def test_trap_5_the_last_record_of_an_aux_stream_is_behind_its_kernels(sample: str) -> None:
    steps = launch_order(read_wrapper(captured(sample).report.wrapper))
    for stream in set(steps) - {CALLER}:
        assert steps[stream][-1].startswith("record"), steps[stream]


@pytest.mark.parametrize("sample", ["diamond", "two_writes"])
def test_trap_5_without_dependencies_kernels_land_behind_that_record(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, plan = reading_of(sample), alternating(kernels_of(sample))
    plan_with(monkeypatch, reorder_for_peak_memory=True)
    assert launch_order(read_wrapper(report_of(reading, plan).wrapper))[1][-1].startswith("record")
    order_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert report.verdict == "refused"
    trace = read_wrapper(report.wrapper)
    assert launch_order(trace)[1][-1].startswith("launch")
    assert hb.UNJOINED in kinds(trace)


def test_trap_5_a_join_recorded_too_early_is_refused() -> None:
    reading = reading_of("three_arms")
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 1, "wc": 1})
    (join,) = (e for e in plan.events if any(w.kernel == JOIN for w in e.waits))
    earlier = replace(join, after=plan.placements[1].kernel)
    early = replace(plan, events=tuple(earlier if e is join else e for e in plan.events))
    assert report_of(reading, plan).verdict == "clean"
    assert refused(report_of(reading, early), "does not wait for stream1 before the graph returns")
    with pytest.raises(ValueError, match="stream 1 is not joined"):
        check_plan(reading.kernels, early)


# --- 6, 8: a buffer reused, or changed in place, while another stream reads it


def sine_and_product(m: Any, x: Tensor) -> Any:
    a = m.wa(x)
    return a.sin() + 1, m.wb(x) @ m.wc.weight


def test_trap_6_a_buffer_that_inductor_reuses_across_streams_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(sine_and_product, 4)
    # Inductor would give the buffer of `wa`, which the sine on stream 1 still reads, to `wb`.
    plan = named_plan(reading.kernels, {"wa": 0, "add": 1, "wb": 0, "wc": 0})
    plan_with(monkeypatch, allow_buffer_reuse=True)
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" not in streamed_text(report.wrapper)
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert "# reuse" in streamed_text(report.wrapper)
    assert refused(report, "nothing makes the caller's stream wait for stream1")


def product_and_sine(m: Any, x: Tensor) -> Any:
    a, b = m.wa(x), m.wb(x)
    return a @ b.t(), a.sin()


def test_trap_8_a_kernel_in_place_of_what_another_stream_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(product_and_sine, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 0, "mm": 1, "sin": 0})
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" not in streamed_text(report.wrapper)
    # Either of two things keeps the sine out of the product's operand: that nothing is done in place, and that the values are
    # held to the join.
    plan_with(monkeypatch, inplace_buffers=True)
    assert "# reuse" not in streamed_text(report_of(reading, plan).wrapper)
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert "# reuse" in streamed_text(report.wrapper)
    assert refused(report, "mm on stream1 reads")
    assert "triton_poi_fused_sin_0 on the caller's stream writes" in report.reason


def in_place(m: Any, x: Tensor) -> Any:
    return m.wa(x).sin(), m.wb(x)


def test_trap_8_nothing_is_done_in_place_though_it_were_sound_where_one_stream_has_the_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = read_function(in_place, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 1, "sin": 0})
    assert "# reuse" not in streamed_text(report_of(reading, plan).wrapper)
    plan_with(monkeypatch, inplace_buffers=True)
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" in streamed_text(report.wrapper)


# --- 7, 10: memory given back while another stream uses it


def test_trap_7_inputs_freed_behind_the_callers_last_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, plan = reading_of("three_arms"), alternating(kernels_of("three_arms"))
    assert report_of(reading, plan).verdict == "clean"
    monkeypatch.setattr(regions, "held_values", lambda *a: [v for v in HELD_VALUES(*a) if v.op != "placeholder"])
    report = report_of(reading, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    assert re.search(
        r"extern_kernels.mm on stream1 reads arg\d_1, which line \d+ on the caller's stream frees", report.races[0]
    )


def test_trap_10_values_freed_behind_the_callers_last_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(product_and_sine, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 0, "mm": 1, "sin": 0})
    assert report_of(reading, plan).verdict == "clean"
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    both = r"mm on stream1 reads buf\d+, which line \d+ on the caller's stream frees; .* allocates buf\d+ and may get it"
    assert re.search(both, report.races[0])


def twice(trace: Trace, forked: bool) -> Trace:
    """Two calls; between them the caller reads the outputs of the first and frees them. The second may forget its fork."""
    outputs = trace.outputs
    between: list[Step] = [Launch(CALLER, 0, "the caller", outputs), *(Free(CALLER, 0, name) for name in outputs)]
    second = [_renamed(s, set(trace.inputs)) for s in trace.steps if not isinstance(s, Free) or s.storage not in trace.inputs]
    if not forked:
        first = {s.stream: i for i, s in reversed(list(enumerate(second))) if isinstance(s, Wait) and s.stream != CALLER}
        second = [s for i, s in enumerate(second) if i not in first.values()]
    first_call = [s for s in trace.steps if not isinstance(s, Free) or s.storage not in trace.inputs]
    return Trace((*first_call, *between, *second), trace.inputs)


def _renamed(step: Step, inputs: set[str]) -> Step:
    def name(storage: str) -> str:
        return storage if storage in inputs else f"second {storage}"

    if isinstance(step, Launch):
        return replace(step, reads=tuple(map(name, step.reads)), writes=tuple(map(name, step.writes)))
    return replace(step, storage=name(step.storage)) if isinstance(step, Allocate | Free) else step


def test_trap_10_outputs_of_an_aux_stream_are_ordered_into_the_callers_and_may_be_freed_by_a_later_call() -> None:
    trace = read_wrapper(captured("three_arms").report.wrapper)
    written = {name for s in trace.steps if isinstance(s, Launch) and s.stream != CALLER for name in s.writes}
    assert written & set(trace.outputs)
    assert kinds(twice(trace, forked=True)) == set()
    assert kinds(twice(trace, forked=False))
    unjoined = [s for s in trace.steps if not (isinstance(s, Wait) and s.stream == CALLER)]
    assert hb.UNJOINED in kinds(replace(trace, steps=tuple(unjoined)))


def dropped_in_between(trace: Trace) -> set[str]:
    """The races of two calls where another thread on the caller's stream reads the first one's outputs and drops them.

    At each point of the second call.
    """
    first = [s for s in trace.steps if not isinstance(s, Free) or s.storage not in trace.inputs]
    second = [_renamed(s, set(trace.inputs)) for s in first]
    other = [Launch(CALLER, 0, "another thread", trace.outputs), *(Free(CALLER, 0, name) for name in trace.outputs)]
    calls = (Trace((*first, *second[:i], *other, *second[i:]), trace.inputs) for i in range(len(second) + 1))
    return set().union(*map(kinds, calls))


@pytest.mark.parametrize("sample", ["three_arms", "sized"])
def test_trap_10_an_output_may_be_dropped_in_the_middle_of_a_later_call(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its block must not go to an aux stream, which has waited for what came before its fork only."""
    reading, plan = reading_of(sample), alternating(kernels_of(sample))
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    trace = read_wrapper(report.wrapper)
    allocated = {s.storage: s.stream for s in trace.steps if isinstance(s, Allocate)}
    assert all(allocated.get(name, CALLER) == CALLER for name in trace.outputs)
    assert dropped_in_between(trace) == set()
    monkeypatch.setattr(wrapper_codegen, "_outputs_first", lambda lines, outputs: lines)
    report = report_of(reading, plan)
    assert refused(report, "the graph returns it")
    assert hb.FREED_EARLY in dropped_in_between(read_wrapper(report.wrapper))


def test_trap_10_an_output_is_not_written_over_what_an_operator_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of("topk")
    plan = named_plan(reading.kernels, {"wa": 0, "topk": 1, "add": 1, "mul": 1, "wb": 0})
    assert report_of(reading, plan).verdict == "clean"
    plan_with(monkeypatch, inplace_buffers=True)
    assert refused(report_of(reading, plan), "the graph returns it")


def best_of_two(m: Any, x: Tensor) -> Any:
    return m.wa(x).topk(4), m.wb(x)


def test_trap_10_an_operator_that_allocates_an_output_stays_on_the_callers_stream() -> None:
    reading = read_function(best_of_two, 4)
    assert [k.name for k in reading.kernels.kernels if k.allocates_output] == ["best_of_two.topk"]
    for us in ([1.0, 9.0, 9.0], [9.0, 9.0, 1.0]):
        plan = search_on_simulator(SearchSpace(reading.kernels, us, 2, 0.0))
        assert plan.stream_of()[[k.name for k in reading.kernels.kernels].index("best_of_two.topk")] == 0
        assert report_of(reading, plan).verdict == "clean"


def interrupted(trace: Trace, joined: bool) -> set[str]:
    """At each allocation of a call, memory runs out: what was allocated is freed, and the caller goes on with its inputs.

    Returns the kinds of races.
    """
    found: set[str] = set()
    streams = {s.stream for s in trace.steps} - {CALLER}
    for i, step in enumerate(trace.steps):
        if not isinstance(step, Allocate):
            continue
        before = trace.steps[:i]
        freed = {s.storage for s in before if isinstance(s, Free)}
        alive = [s.storage for s in before if isinstance(s, Allocate) and s.storage not in freed]
        join = [each for s in sorted(streams) for each in (Record(s, 0, f"error {s}"), Wait(CALLER, 0, f"error {s}"))]
        after: list[Step] = [*(join if joined else ()), *(Free(CALLER, 0, name) for name in alive), Allocate(CALLER, 0, "next")]
        used = tuple(name for name in trace.inputs if name not in freed)
        after.append(Launch(CALLER, 0, "the caller", (), (*used, "next")))
        if not joined:
            after = [*after, *join]
        found |= kinds(Trace((*before, *after), trace.inputs)) - {hb.UNFORKED}
    return found


def test_trap_10_an_exception_in_the_middle_of_a_call_leaves_no_work_that_nobody_waits_for() -> None:
    """The handler of errors joins every stream before what the call has allocated is freed."""
    source = captured("sized").report.wrapper
    taken = re.search(r"default_stream, (stream1(?:, stream\d)*), event0", source)
    assert taken
    assert re.search(rf"except BaseException:\n +_join_streams\(default_stream, {taken[1]}\)\n +raise\n", source)
    trace = read_wrapper(source)
    assert interrupted(trace, joined=True) == set()
    assert interrupted(trace, joined=False)


OTHER_CALLER = 10


def calls_of_two_callers(trace: Trace, aux: int) -> Trace:
    """A call; then another from another caller's stream, on aux stream `aux`, while the first caller reads its outputs.

    The first caller has enqueued that, and has freed them.
    """

    def moved(step: Step) -> Step:
        return replace(_renamed(step, set(trace.inputs)), stream=OTHER_CALLER if step.stream == CALLER else aux)

    calls = [s for s in trace.steps if not isinstance(s, Free) or s.storage not in trace.inputs]
    both_ready: list[Step] = [Record(CALLER, 0, "ready"), Wait(OTHER_CALLER, 0, "ready")]
    reading: list[Step] = [Launch(CALLER, 0, "the caller", trace.outputs), *(Free(CALLER, 0, name) for name in trace.outputs)]
    second = [replace(s, event=f"second {s.event}") if isinstance(s, Record | Wait) else s for s in map(moved, calls)]
    both_done: list[Step] = [Record(OTHER_CALLER, 0, "done"), Wait(CALLER, 0, "done")]
    return Trace((*both_ready, *calls, *reading, *second, *both_done), trace.inputs)


def test_trap_10_callers_on_two_streams_have_aux_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "new_aux_stream", lambda caller, priority: object())
    monkeypatch.setattr(runtime, "_pools", runtime._PoolsOfThread())
    monkeypatch.setattr(runtime, "_idle", {})
    first, other = (SimpleNamespace(device_index=0, stream_id=handle, device=None) for handle in (0, OTHER_CALLER))
    assert runtime.acquire(first, 1, 0) == runtime.acquire(first, 1, 0) != runtime.acquire(other, 1, 0)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", {**FREE_EVENTS, "streams": 2})
    trace = read_wrapper(outcome.report.wrapper)
    assert {step.stream for step in trace.steps} == {CALLER, 1}
    assert kinds(calls_of_two_callers(trace, aux=OTHER_CALLER + 1)) == set()
    assert kinds(calls_of_two_callers(trace, aux=1)) == {hb.FREED_EARLY}


@pytest.fixture(scope="module")
def block() -> Reading:
    return capture(*pre_attention(16, 64), "h200", {"min_gain": 0.0})[0].reading


@pytest.mark.parametrize("streams", [2, 3])
def test_the_pre_attention_block_is_clean_and_without_its_lifetimes_refused(
    block: Reading, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    """The known failure: 16 heads, 64 tokens; the block of the first GEMM was overwritten while the side stream read it."""
    plan = alternating(block.kernels, streams)
    assert report_of(block, plan).verdict == "clean"
    hold_nothing(monkeypatch)
    report = report_of(block, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    assert any(re.search(r"reads buf\d+, which line \d+ .* frees", race) for race in report.races)


@pytest.mark.parametrize("streams", [2, 3])
def test_the_planners_own_plan_of_the_pre_attention_block_needs_its_lifetimes_too(
    monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    inputs = pre_attention(16, 64)
    options = {"min_gain": 0.0, "streams": streams}
    assert capture(*inputs, "h200", options)[0].report.verdict == "clean"
    hold_nothing(monkeypatch)
    assert refused(capture(*inputs, "h200", options)[0].report, "so the memory can be overwritten while it is in use")


# --- 9: passes of Inductor's that run after ours


class Grab(CustomGraphPass):
    """Stands where the package's pass stands, and keeps the graph that it would get."""

    graph: fx.GraphModule

    def __call__(self, graph: fx.Graph) -> None:
        self.graph = copy_graph(graph.owning_module)

    def uuid(self) -> None:
        return None


def at_our_place(sample: str) -> fx.GraphModule:
    grab = Grab()
    with config.patch(post_grad_custom_post_pass=grab):
        capture(*module_and_inputs(sample), "h200", FREE_EVENTS)
    return grab.graph


def on_gpu(module: fx.GraphModule, function: Any, *arguments: Any) -> Any:
    mode = detect_fake_mode([n.meta["val"] for n in module.graph.find_nodes(op="placeholder")])
    with offline(DEVICES["h200"]), V.set_fake_mode(mode), torch.no_grad():
        return function(*arguments)


def finished(module: fx.GraphModule) -> fx.GraphModule:
    """A copy behind the passes of Inductor's that run after ours."""
    copy = copy_graph(module)
    on_gpu(module, finish_post_grad_passes, copy)
    return copy


def shape(module: fx.GraphModule) -> list[Any]:
    """The graph but for its names."""
    index = {node: i for i, node in enumerate(module.graph.nodes)}
    arguments = [fx.map_arg((n.args, n.kwargs), index.__getitem__) for n in index]
    targets = [str(n.target) if n.op == "call_function" else n.op for n in index]
    return list(zip(targets, arguments, strict=True))


REINPLACED = ["buffer_write", "custom_mutation", "ring", "scatter_into_zeros", "two_writes", "write_after_read"]


@pytest.mark.parametrize("sample", REINPLACED)
def test_trap_9_inductors_last_passes_find_nothing_to_do_a_second_time(sample: str) -> None:
    once = finished(at_our_place(sample))
    assert shape(finished(once)) == shape(once)


@pytest.mark.parametrize("sample", REINPLACED)
def test_trap_9_inductors_last_passes_leave_a_rewritten_graph_as_it_was_proved(sample: str) -> None:
    module = at_our_place(sample)
    outcome = on_gpu(module, functools.partial(backend.run_stages, device=DEVICES["h200"]), module, Options(**FREE_EVENTS))
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert shape(finished(outcome.module)) == shape(outcome.module)


@pytest.mark.parametrize("sample", ["buffer_write", "scatter_into_zeros", "write_after_read"])
def test_trap_9_if_they_had_not_run_before_they_would_change_it(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = at_our_place(sample)
    monkeypatch.setattr("graphstreams.pipeline.run.finish_post_grad_passes", lambda _: None)
    outcome = on_gpu(module, functools.partial(backend.run_stages, device=DEVICES["h200"]), module, Options(**FREE_EVENTS))
    assert shape(finished(outcome.module)) != shape(outcome.module)


# --- 11: record_stream


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_11_no_wrapper_calls_record_stream(sample: str) -> None:
    assert "record_stream" not in captured(sample).report.wrapper


def test_trap_11_a_wrapper_that_does_is_refused() -> None:
    source = captured("diamond").report.wrapper
    line = next(line for line in source.splitlines() if ".record(stream" in line)
    indent = line[: len(line) - len(line.lstrip())]
    with pytest.raises(UnreadableWrapper, match="record_stream"):
        verify(source.replace(line, f"{line}\n{indent}buf0.record_stream(stream1)"))


# --- 12: the order in which branches are enqueued


def first_stream(sample: str) -> int:
    graph = kernels_of(sample)
    plan = list_schedule.plan_kernels(graph, [10.0] * len(graph.kernels), streams=3)
    assert [p.start_us for p in plan.placements] == [0.0] * len(graph.kernels)
    report = report_of(reading_of(sample), replace(plan, serial_us=1e9))
    assert report.verdict == "clean", report.reason
    return next(s.stream for s in read_wrapper(report.wrapper).steps if isinstance(s, Launch))


def test_trap_12_of_equal_starts_the_callers_stream_is_enqueued_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_stream("three_arms") == CALLER

    def aux_first(best: Any, start: Any, predecessors: Any) -> list[int]:
        return sorted(best.order, key=lambda k: (start[k], -best.stream[k]))

    monkeypatch.setattr(build_plan, "enqueue_order", aux_first)
    assert first_stream("three_arms") != CALLER


# --- 13: events of another capture


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_13_one_function_records_each_event_before_anything_waits_for_it(sample: str) -> None:
    source = captured(sample).report.wrapper
    functions = [f for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef)]
    syncs = [f.name for f in functions if re.search(r"event\d+\.(record|wait)\(", ast.unparse(f))]
    assert syncs == ["call_on_streams"]
    recorded: set[str] = set()
    for step in read_wrapper(source).steps:
        assert not isinstance(step, Wait) or step.event in recorded
        recorded.update([step.event] if isinstance(step, Record) else [])


def test_trap_13_a_wait_for_an_event_of_another_call_is_refused() -> None:
    source = captured("diamond").report.wrapper
    for line in [line for line in source.splitlines() if ".record(" in line]:
        assert hb.UNRECORDED in {race.kind for race in verify(source.replace(line + "\n", ""))}


CUT_AT = "graphstreams_tests::split_signs"


def test_trap_13_a_graph_is_not_cut_into_functions_that_are_captured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CUDA graphs Inductor cuts a graph at operators that cannot be captured, and captures each piece by itself."""

    generated: list[str] = []

    def spy(module: fx.GraphModule) -> Lowered:
        lowered = real(module)
        generated.append(lowered.source)
        return lowered

    def report_with(cut: bool) -> Report:
        with config.patch({"triton.cudagraphs": True, "graph_partition": cut, "custom_should_partition_ops": [CUT_AT]}):
            return capture(*module_and_inputs("custom_function"), "h200", FREE_EVENTS)[0].report

    def functions(source: str) -> set[str]:
        return set(re.findall(r"^ *def (partition_\d+|call\w*)\(", source, re.MULTILINE))

    real = run.streamed_code
    monkeypatch.setattr(run, "streamed_code", spy)
    report = report_with(cut=True)
    assert (report.verdict, report.stage, generated) == ("serial", "read", [])
    assert "CUDA graphs at" in report.reason and "split_signs" in report.reason
    report = report_with(cut=False)
    assert (report.verdict, functions(report.wrapper)) == ("clean", {"call", "call_on_streams"})
    plan_with(monkeypatch, graph_partition=True)
    report = report_with(cut=False)
    assert functions(generated[-1]) >= {"partition_0", "partition_1"}
    assert (report.verdict, report.stage, functions(report.wrapper)) == ("refused", "verify", {"call"})


# --- 14: operators that promise nothing


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
    assert [s.stream for s in trace.steps if isinstance(s, Launch) and "hidden_write" in s.name] == [CALLER]
    # Nothing else can help: the operator's schema says that it writes nothing, so the verifier can't know.
    monkeypatch.setattr(scheduler_nodes, "exclusive_reason", lambda _: "")
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
    monkeypatch.setattr(scheduler_nodes, "exclusive_reason", lambda _: "")
    assert not equal_in_every_order()


def two_collectives(m: Any, x: Tensor, y: Tensor) -> Any:
    reduced = torch.ops._c10d_functional.all_reduce(m.wa(x), "sum", "0")
    gathered = torch.ops._c10d_functional.all_gather_into_tensor(m.wb(y), 2, "0")
    wait = torch.ops._c10d_functional.wait_tensor
    return wait(reduced), wait(gathered), m.wc(x)


def ordered_with(graph: KernelGraph, kernel: int) -> set[int]:
    """The kernels that come before or after it by the graph's edges."""
    found: set[int] = set()
    for neighbours_of in (graph.predecessors(), graph.successors()):
        pending = list(neighbours_of[kernel])
        while pending:
            found.add(other := pending.pop())
            pending.extend(neighbours_of[other])
    return found


def test_trap_14_collectives_keep_their_place_on_the_callers_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank has to start them in one order, and each has a kernel that spins until the others' do."""

    def collectives() -> tuple[KernelGraph, list[int], Plan]:
        inputs = torch.empty(4, 64), torch.empty(8, 64)
        graph = capture(Function(two_collectives), inputs, "h200", FREE_EVENTS)[0].reading.kernels
        found = [k.id for k in graph.kernels if any("_c10d_functional" in launch for launch in k.launches)]
        return graph, found, list_schedule.plan_kernels(graph, [10.0] * len(graph.kernels), streams=3)

    graph, found, plan = collectives()
    assert len(found) == 2
    for kernel in found:
        assert graph.kernels[kernel].exclusive
        assert ordered_with(graph, kernel) == set(range(len(graph.kernels))) - {kernel}
        assert plan.stream_of()[kernel] == CALLER
    monkeypatch.setattr(scheduler_nodes, "exclusive_reason", lambda _: "")
    graph, found, plan = collectives()
    assert found[0] not in ordered_with(graph, found[1])
    assert {plan.stream_of()[kernel] for kernel in found} != {CALLER}


def collective_between_branches(m: Any, x: Tensor, y: Tensor) -> Any:
    reduced = torch.ops._c10d_functional.all_reduce(m.wa(x).sin() @ m.wb(y).cos().t(), "sum", "0")
    return torch.ops._c10d_functional.wait_tensor(reduced) * 2, m.wc(x)


def test_trap_14_a_graph_with_a_collective_is_not_streamed_yet() -> None:
    """Ranks that plan differently would hang, and NCCL's kernels spin beside ours."""
    inputs = torch.empty(4, 64), torch.empty(8, 64)
    report = capture(Function(collective_between_branches), inputs, "h200", FREE_EVENTS)[0].report
    assert (report.verdict, report.stage) == ("serial", "read")
    assert "all_reduce" in report.reason


@pytest.mark.parametrize("namespace", ["_c10d_functional", "symm_mem", "vllm", "graphstreams_tests"])
def test_trap_14_only_pytorchs_own_computations_are_trusted(namespace: str) -> None:
    assert namespace not in scheduler_nodes._TRUSTED


# --- 15: GEMMs with one row


def gemms(sample: str) -> int:
    module, _ = module_and_inputs(sample)
    report = capture(module, (torch.empty(1, 64),), "h200", {"streams": 1})[0].report
    return sum(k.kind == "gemm" for k in report.kernels.kernels)


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead"])
def test_trap_15_coordinate_descent_tuning_is_left_alone(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    patches: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda gm, _, config_patches, **kw: patches.append(config_patches) or gm.forward,
    )
    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend="graphstreams", mode=mode)(torch.ones(2))
    torch._dynamo.reset()
    assert patches
    assert not any("coordinate_descent_tuning" in given for given in patches)


def test_trap_15_with_it_a_decode_step_loses_its_gemms() -> None:
    assert not config.coordinate_descent_tuning
    assert gemms("three_arms") == 3
    with config.patch(coordinate_descent_tuning=True):
        assert gemms("three_arms") == 0


# --- 16: the arguments of a backend


def test_trap_16_the_backend_takes_mode_and_options_as_keywords() -> None:
    parameters = inspect.signature(backend.graphstreams).parameters
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("mode", "options"))
    torch._dynamo.reset()
    function = torch.compile(lambda x: x * 2, backend="graphstreams", options={"streams": 2})
    assert torch.equal(function(torch.ones(2)), torch.full((2,), 2.0))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="unexpected keyword argument 'options'"):
        torch.compile(lambda x: x * 2, backend=lambda gm, inputs: gm.forward, options={"streams": 2})(torch.ones(2))
    torch._dynamo.reset()


# --- 17: a record that stands where it is needed


def behind_producers(sample: str, source: str) -> bool:
    """Whether on every stream each record directly follows its producer's launch, or opens the graph."""
    plan, launched = captured(sample).report.plan, {}
    for stream, steps in launch_order(read_wrapper(source)).items():
        own = [p.kernel for p in plan.placements if p.stream == stream]
        count = 0
        for step in steps:
            count += step.startswith("launch")
            if step.startswith("record"):
                launched[int(step.removeprefix("record "))] = [-1, *own][count]
    return launched == {event.id: event.after for event in plan.events}


def test_trap_17_each_record_is_right_behind_its_producer_and_elsewhere_refused() -> None:
    outcome = captured("diamond")
    assert outcome.reading is not None
    lowered, serial = lowered_with_code(outcome.module), lowered_serially(outcome.reading.module)
    late = replace(lowered, source=with_a_late_record(lowered.source))
    assert verify(late.source) == []  # it orders too much, not too little

    def finished_with(streamed: Lowered) -> Report:
        tried = Outcome(replace(outcome.report, verdict="serial"), outcome.module, outcome.reading, outcome.device)
        with guarded(tried):
            finish(tried, serial, streamed, find_host(serial.source), Dispatch(), Options(**FREE_EVENTS))
        return tried.report

    assert behind_producers("diamond", lowered.source)
    assert not behind_producers("diamond", late.source)
    assert finished_with(lowered).verdict == "clean"
    report = finished_with(late)
    assert (report.verdict, report.order_kept) == ("refused", False)


def with_a_late_record(source: str) -> str:
    """The first record of the caller's stream behind the launch that follows it there."""
    lines = source.splitlines()
    record = next(i for i, line in enumerate(lines) if re.fullmatch(r" {12}event\d+\.record\(default_stream\)", line))
    launch = next(i for i, line in enumerate(lines) if i > record and re.match(r" {12}(extern|triton)\S+\(", line))
    return "\n".join([*lines[:record], *lines[record + 1 : launch + 1], lines[record], *lines[launch + 1 :]])


def test_every_trap_has_a_test() -> None:
    named = " ".join(re.findall(r"^def test_trap_((?:\d+_and_)?\d+)_", Path(__file__).read_text(), re.MULTILINE))
    assert {int(number) for number in re.findall(r"\d+", named)} == set(range(1, 19))
