"""Check the traps of order (1 to 5, 12, 13, 17, 18): what orders streams stays in the code, at its place."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor import config
from torch._inductor.fx_passes.control_dependencies import control_deps

from graphstreams import Options
from graphstreams.inductor import scheduling, stream_ops, wrapper_codegen, wrapper_registry
from graphstreams.inductor.conformance import _on_streams
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.settings import stream_settings
from graphstreams.ir.plan import JOIN
from graphstreams.pipeline import run
from graphstreams.pipeline.explain import capture
from graphstreams.planning import build_plan, list_schedule
from graphstreams.planning.synchronization import check_plan
from graphstreams.reports.report import Report
from graphstreams.rewriting.regions import rewrite
from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import CALLER, LaunchStep, RecordStep, WaitStep, launch_order
from graphstreams.verification.wrapper.read import read_wrapper, verify
from tests.support.finishing import finished
from tests.support.sample_modules import (
    FREE_EVENTS,
    STREAMABLE,
    TORCH_2_14_0,
    as_on_h200,
    captured,
    kernels_of,
    lowered_serially,
    lowered_with_code,
    module_and_inputs,
    plan_by_hand,
    reading_of,
)
from tests.support.traps import (
    SOME,
    alternating,
    bare_operation,
    kinds,
    named_plan,
    order_nothing,
    plan_with,
    refused,
    report_of,
)


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_1_and_2_wrappers_know_no_stream_of_dynamo(sample: str) -> None:
    source = captured(sample).report.wrapper
    assert wrapper_codegen.RUNTIME_IMPORT in source
    assert not re.search(r"_get_stream_by_index|ops\.streams|torch\._dynamo\.variables|cuda\.Event\(|cuda\.Stream\(", source)


def test_trap_1_and_2_without_our_wrapper_class_they_would() -> None:
    module = copy_graph(captured("diamond").module)
    del module.meta[wrapper_registry.REWRITTEN]
    source = lowered_with_code(module).source
    assert wrapper_codegen.RUNTIME_IMPORT not in source
    assert "_get_stream_by_index" in source
    assert "torch.ops.streams.record_event" in source


def ordered_by_dependencies(module: fx.GraphModule) -> bool:
    """Return whether every order of Inductor's nodes that respects their dependencies keeps each stream operation where it is.

    That is, on its side of every kernel of its stream, and each wait behind the record of its event.
    """
    wrapper_registry.register()
    with as_on_h200(module):
        lowered = lower(
            copy_graph(module),
            settings={**stream_settings(), "_post_fusion_custom_pass": scheduling.order_by_stream},
            scheduler=scheduling.RegionScheduler,
        )
    with lowered.active():
        nodes = list(enumerate(_on_streams(lowered)))
    made_by = {name: node for _, (node, _) in nodes for name in node.get_buffer_names()}
    before: dict[Any, set[Any]] = {}
    for _, (node, _) in nodes:
        needed = {made_by[d.name] for d in node.unmet_dependencies if d.name in made_by} - {node}
        before[node] = needed.union(*(before[n] for n in needed))
    syncs = [(i, node, stream) for i, (node, stream) in nodes if scheduling.synchronizes(node)]
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


# Plans of which Inductor moves a kernel past a wait, if nothing keeps it.
MOVABLE = {
    "diamond": {"wa": 0, "wb": 1, "wc": 0, "mul": 1, "wd": 0},
    "swap": {"wa": 0, "wb": 1, "clone": 0, "copy": 1, "copy#2": 0},
}
# In torch 2.14.0 one kernel makes both copies of "swap".
MOVED = [name for name in MOVABLE if not (TORCH_2_14_0 and name == "swap")]


@pytest.mark.parametrize("sample", MOVED)
def test_trap_4_a_consumer_stays_behind_its_wait_although_inductor_moves_kernels(
    sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, plan = reading_of(sample), named_plan(kernels_of(sample), MOVABLE[sample])
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


@pytest.mark.parametrize("sample", SOME)
def test_trap_5_the_last_record_of_an_aux_stream_is_behind_its_kernels(sample: str) -> None:
    steps = launch_order(read_wrapper(captured(sample).report.wrapper))
    for stream in set(steps) - {CALLER}:
        assert steps[stream][-1].startswith("record"), steps[stream]


@pytest.mark.parametrize("sample", MOVED)
def test_trap_5_without_dependencies_kernels_land_behind_that_record(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, plan = reading_of(sample), named_plan(kernels_of(sample), MOVABLE[sample])
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


def first_stream(sample: str) -> int:
    graph = kernels_of(sample)
    plan = list_schedule.plan_kernels(graph, [10.0] * len(graph.kernels), streams=3)
    assert [p.start_us for p in plan.placements] == [0.0] * len(graph.kernels)
    report = report_of(reading_of(sample), replace(plan, serial_us=1e9))
    assert report.verdict == "clean", report.reason
    return next(s.stream for s in read_wrapper(report.wrapper).steps if isinstance(s, LaunchStep))


def test_trap_12_of_equal_starts_the_callers_stream_is_enqueued_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_stream("three_arms") == CALLER

    def aux_first(best: Any, start: Any, predecessors: Any) -> list[int]:
        return sorted(best.order, key=lambda k: (start[k], -best.stream[k]))

    monkeypatch.setattr(build_plan, "enqueue_order", aux_first)
    assert first_stream("three_arms") != CALLER


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_13_one_function_records_each_event_before_anything_waits_for_it(sample: str) -> None:
    source = captured(sample).report.wrapper
    functions = [f for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef)]
    syncs = [f.name for f in functions if re.search(r"event\d+\.(record|wait)\(", ast.unparse(f))]
    assert syncs == ["call_on_streams"]
    recorded: set[str] = set()
    for step in read_wrapper(source).steps:
        assert not isinstance(step, WaitStep) or step.event in recorded
        recorded.update([step.event] if isinstance(step, RecordStep) else [])


def test_trap_13_a_wait_for_an_event_of_another_call_is_refused() -> None:
    source = captured("diamond").report.wrapper
    for line in [line for line in source.splitlines() if ".record(" in line]:
        assert hb.UNRECORDED in {race.kind for race in verify(source.replace(line + "\n", ""))}


CUT_AT = "graphstreams_tests::split_signs"


def test_trap_13_a_graph_is_not_cut_into_functions_that_are_captured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CUDA graphs Inductor cuts a graph at operators that cannot be captured, and captures each piece by itself."""

    generated: list[str] = []

    def spy(module: fx.GraphModule, constants: Mapping[str, torch.Tensor]) -> Lowered:
        lowered = real(module, constants)
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


def behind_producers(sample: str, source: str) -> bool:
    """Return whether on every stream each record directly follows its producer's launch, or opens the graph."""
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
        report, options = outcome.report, Options(**FREE_EVENTS)
        return finished(outcome.reading, outcome.module, report.plan, serial, streamed, options, report.us).report

    assert behind_producers("diamond", lowered.source)
    assert not behind_producers("diamond", late.source)
    assert finished_with(lowered).verdict == "clean"
    report = finished_with(late)
    assert (report.verdict, report.order_kept) == ("refused", False)


def with_a_late_record(source: str) -> str:
    """Return the first record of the caller's stream behind the launch that follows it there."""
    lines = source.splitlines()
    record = next(i for i, line in enumerate(lines) if re.fullmatch(r" {12}event\d+\.record\(default_stream\).*", line))
    launch = next(i for i, line in enumerate(lines) if i > record and re.match(r" {12}(extern|triton)\S+\(", line))
    return "\n".join([*lines[:record], *lines[record + 1 : launch + 1], lines[record], *lines[launch + 1 :]])
