"""Check trap 10 between calls: what one call frees is ordered with what later calls and other callers do."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from graphstreams.inductor import wrapper_lines
from graphstreams.pipeline.explain import capture
from graphstreams.runtime import streams as runtime
from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import CALLER, AllocateStep, FreeStep, LaunchStep, RecordStep, Step, Trace, WaitStep
from graphstreams.verification.wrapper.read import read_wrapper
from tests.support.sample_modules import FREE_EVENTS, captured, kernels_of, module_and_inputs, reading_of
from tests.support.traps import alternating, kinds, refused, report_of


def twice(trace: Trace, forked: bool) -> Trace:
    """Two calls; between them the caller reads the outputs of the first and frees them. The second may forget its fork."""
    outputs = trace.outputs
    between: list[Step] = [LaunchStep(CALLER, 0, "the caller", outputs), *(FreeStep(CALLER, 0, name) for name in outputs)]
    second = [
        _renamed(s, set(trace.inputs)) for s in trace.steps if not isinstance(s, FreeStep) or s.storage not in trace.inputs
    ]
    if not forked:
        first = {s.stream: i for i, s in reversed(list(enumerate(second))) if isinstance(s, WaitStep) and s.stream != CALLER}
        second = [s for i, s in enumerate(second) if i not in first.values()]
    first_call = [s for s in trace.steps if not isinstance(s, FreeStep) or s.storage not in trace.inputs]
    return Trace((*first_call, *between, *second), trace.inputs)


def _renamed(step: Step, inputs: set[str]) -> Step:
    def name(storage: str) -> str:
        return storage if storage in inputs else f"second {storage}"

    if isinstance(step, LaunchStep):
        return replace(step, reads=tuple(map(name, step.reads)), writes=tuple(map(name, step.writes)))
    return replace(step, storage=name(step.storage)) if isinstance(step, AllocateStep | FreeStep) else step


def test_trap_10_outputs_of_an_aux_stream_are_ordered_into_the_callers_and_may_be_freed_by_a_later_call() -> None:
    trace = read_wrapper(captured("three_arms").report.wrapper)
    written = {name for s in trace.steps if isinstance(s, LaunchStep) and s.stream != CALLER for name in s.writes}
    assert written & set(trace.outputs)
    assert kinds(twice(trace, forked=True)) == set()
    assert kinds(twice(trace, forked=False))
    unjoined = [s for s in trace.steps if not (isinstance(s, WaitStep) and s.stream == CALLER)]
    assert hb.UNJOINED in kinds(replace(trace, steps=tuple(unjoined)))


def dropped_in_between(trace: Trace) -> set[str]:
    """Return the races of two calls if another thread on the caller's stream reads the first one's outputs and drops them.

    At each point of the second call.
    """
    first = [s for s in trace.steps if not isinstance(s, FreeStep) or s.storage not in trace.inputs]
    second = [_renamed(s, set(trace.inputs)) for s in first]
    other = [LaunchStep(CALLER, 0, "another thread", trace.outputs), *(FreeStep(CALLER, 0, name) for name in trace.outputs)]
    calls = (Trace((*first, *second[:i], *other, *second[i:]), trace.inputs) for i in range(len(second) + 1))
    return set().union(*map(kinds, calls))


@pytest.mark.parametrize("sample", ["three_arms", "sized"])
def test_trap_10_an_output_may_be_dropped_in_the_middle_of_a_later_call(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its block must not go to an aux stream, which has waited for what came before its fork only."""
    reading, plan = reading_of(sample), alternating(kernels_of(sample))
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    trace = read_wrapper(report.wrapper)
    allocated = {s.storage: s.stream for s in trace.steps if isinstance(s, AllocateStep)}
    assert all(allocated.get(name, CALLER) == CALLER for name in trace.outputs)
    assert dropped_in_between(trace) == set()
    monkeypatch.setattr(wrapper_lines, "outputs_first", lambda lines, outputs: lines)
    report = report_of(reading, plan)
    assert refused(report, "the graph returns it")
    assert hb.FREED_EARLY in dropped_in_between(read_wrapper(report.wrapper))


def interrupted(trace: Trace, joined: bool) -> set[str]:
    """At each allocation of a call, memory runs out: what was allocated is freed, and the caller goes on with its inputs.

    Returns the kinds of races.
    """
    found: set[str] = set()
    streams = {s.stream for s in trace.steps} - {CALLER}
    for i, step in enumerate(trace.steps):
        if not isinstance(step, AllocateStep):
            continue
        before = trace.steps[:i]
        freed = {s.storage for s in before if isinstance(s, FreeStep)}
        alive = [s.storage for s in before if isinstance(s, AllocateStep) and s.storage not in freed]
        join = [each for s in sorted(streams) for each in (RecordStep(s, 0, f"error {s}"), WaitStep(CALLER, 0, f"error {s}"))]
        after: list[Step] = [
            *(join if joined else ()),
            *(FreeStep(CALLER, 0, name) for name in alive),
            AllocateStep(CALLER, 0, "next"),
        ]
        used = tuple(name for name in trace.inputs if name not in freed)
        after.append(LaunchStep(CALLER, 0, "the caller", (), (*used, "next")))
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
    """Return a call; then another from another caller's stream, on aux stream `aux`, while the first caller reads its outputs.

    The first caller has enqueued that, and has freed them.
    """

    def moved(step: Step) -> Step:
        return replace(_renamed(step, set(trace.inputs)), stream=OTHER_CALLER if step.stream == CALLER else aux)

    calls = [s for s in trace.steps if not isinstance(s, FreeStep) or s.storage not in trace.inputs]
    both_ready: list[Step] = [RecordStep(CALLER, 0, "ready"), WaitStep(OTHER_CALLER, 0, "ready")]
    reading: list[Step] = [
        LaunchStep(CALLER, 0, "the caller", trace.outputs),
        *(FreeStep(CALLER, 0, name) for name in trace.outputs),
    ]
    second = [replace(s, event=f"second {s.event}") if isinstance(s, RecordStep | WaitStep) else s for s in map(moved, calls)]
    both_done: list[Step] = [RecordStep(OTHER_CALLER, 0, "done"), WaitStep(CALLER, 0, "done")]
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
