"""Try other plans if the code of a plan is refused, and tell what came of each: a part of the recipe.

The first of them avoids what was refused: the kernels that the refusal names go to the stream of what they depend on, or to the
caller's. The second has half as many streams. Each is lowered, proved and compared as the first one was. A time that was
measured is that of the plan that was measured: another plan is measured too, or the simulator decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.costs.footprint import Blocks
from graphstreams.errors import PlanRefused, StaySerial
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.messages import listed, with_type
from graphstreams.pipeline.compilation import Progress
from graphstreams.pipeline.select_plan import PlanChoice, Task, checked_choice
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.modelled_plan import plan_space
from graphstreams.planning.neighborhood import signature
from graphstreams.planning.paths import Assignment, without_gaps
from graphstreams.planning.policies import search_on_simulator
from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")


def run_with_other_plans(
    progress: Progress, task: Task, choice: PlanChoice, attempt: Callable[[PlanChoice], None], autotuner: Autotuner | None
) -> None:
    """Call `attempt` with a plan, and if that is refused with up to two others, until one is not; the notes tell the way.

    `attempt` goes on with the recipe from the plan of the report. Raises what stopped the first plan if none is left.
    """
    start = progress.report
    try:
        attempt(choice)
        return
    except PlanRefused as error:
        # A plan for fewer tokens than the example's was made for other times than the report had before.
        if choice.plan is None or progress.report.plan is not choice.plan:
            raise
        refusal, refused = error, progress.report
    told = [f"the first plan, {_described(choice)}, is not used: {refusal}"]
    for what, plan in other_plans(task, start.us, choice.plan, refusal.kernels, _blocks(autotuner, choice)):
        with progress.stage("plan"):
            chosen, why_simulated = _choice(task, start.us, plan, choice, autotuner)
        text = f"tried next, {what}: {_described(chosen)}{why_simulated}"
        notes, seconds = (*start.notes, *told), progress.report.seconds
        report = replace(start, plan=chosen.plan, measurement=chosen.measurement, notes=notes, seconds=seconds)
        progress.keep(report=report, module=None, added=())
        try:
            if chosen.rejected:
                raise StaySerial("serial", chosen.rejected)
            attempt(chosen)
        except Exception as error:
            log.debug("%s: another plan failed", start.name, exc_info=True)
            reason = str(error) if isinstance(error, StaySerial) else with_type(error)
            told.append(f"{text}; it is not used: {reason}")
        else:
            progress.note(f"{text}; it passed every check, and is what runs")
            if refused.races:
                why = "the code for the first plan had a race, so another plan runs; please report it"
                log.warning("graphstreams: %s: %s: %s", on_rank(start.name), why, refused.races[0])
            return
    told.append("no other plan is left, so the graph runs serially")
    progress.keep(report=replace(refused, notes=(*refused.notes, *told), seconds=progress.report.seconds))
    with progress.stage("verify"):
        raise refusal


def other_plans(
    task: Task, us: Sequence[float], refused: Plan, kernels: frozenset[int], blocks: Mapping[int, Blocks] | None = None
) -> Iterator[tuple[str, Plan]]:
    """Yield the plans to try in place of one that was refused for `kernels`, and that has not been tried, most alike first.

    With each comes how it differs, in words.
    `us` has the us of each kernel, `blocks` the measured blocks by kernel id. Plans on one stream are none.
    """
    graph, options = task.reading.kernels, task.options
    tried = {signature(assignment_of(refused))}
    if kernels:
        space = plan_space(graph, us, task.device, options, blocks)
        plan = space.plan(avoiding(graph, refused, kernels))
        if plan.streams > 1 and (found := signature(assignment_of(plan))) not in tried:
            tried.add(found)
            names = listed([repr(graph.kernels[kernel].name) for kernel in sorted(kernels)])
            yield f"{names} moved to the stream of what comes before, or to the caller's", plan
    half = (refused.streams + 1) // 2
    if max({1, *graph.pinned_streams()}) < half < refused.streams:
        plan = search_on_simulator(plan_space(graph, us, task.device, replace(options, streams=half), blocks))
        if plan.streams > 1 and signature(assignment_of(plan)) not in tried:
            yield "half as many streams", plan


def avoiding(graph: KernelGraph, plan: Plan, kernels: frozenset[int]) -> Assignment:
    """Return the plan's assignment with `kernels` on the stream of what they depend on, if that is one, else on the caller's.

    A kernel that depends on nothing stays, because the others come after it. If nothing moves so, all go to the caller's. A
    kernel that is bound to a stream stays there.
    """
    given, predecessors = assignment_of(plan), graph.predecessors()
    stream = list(given.stream)
    for kernel in sorted(kernels):  # the streams of what it depends on are known by then
        streams = {stream[producer] for producer in predecessors[kernel]}
        if streams and graph.kernels[kernel].bound_stream is None:
            stream[kernel] = streams.pop() if len(streams) == 1 else 0
    if stream == list(given.stream):
        free = [kernel for kernel in kernels if graph.kernels[kernel].bound_stream is None]
        stream = [0 if kernel in free else stream[kernel] for kernel in range(len(stream))]
    return replace(given, stream=without_gaps(stream, graph.pinned_streams()))


def _choice(
    task: Task, us: Sequence[float], plan: Plan, first: PlanChoice, autotuner: Autotuner | None
) -> tuple[PlanChoice, str]:
    """Return the choice of a plan, measured if the first one was, and why it was not measured although the first one was."""
    if first.measurement is None or autotuner is None:
        return checked_choice(task, us, plan), ""
    try:
        return checked_choice(task, us, *autotuner.benchmark.fastest([plan])), ""
    except Exception as error:
        log.debug("another plan could not be measured", exc_info=True)
        return checked_choice(task, us, plan), f" (only simulated, because measuring it failed: {error})"


def _blocks(autotuner: Autotuner | None, first: PlanChoice) -> Mapping[int, Blocks] | None:
    """Return the measured blocks of each kernel if the first plan was measured and they are to be had."""
    if first.measurement is None or autotuner is None:
        return None
    try:
        return autotuner.blocks()
    except Exception:
        log.debug("the blocks of kernels could not be measured", exc_info=True)
        return None


def _described(choice: PlanChoice) -> str:
    assert choice.plan is not None
    plan, measurement = choice.plan, choice.measurement
    gain = measurement.gain if measurement else 1 - plan.streamed_us / plan.serial_us if plan.serial_us else 0.0
    return f"{plan.used} streams with a {'measured' if measurement else 'simulated'} gain of {gain:.1%}"
