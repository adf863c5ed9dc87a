"""For which numbers of tokens a plan runs, in a graph whose calls choose the number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from graphstreams.dynamic_shapes.crossover import CostsBySize, SmallerSizes, Tokens, costs_by_size, plan_for_fewer
from graphstreams.dynamic_shapes.threshold import confirm
from graphstreams.errors import StaySerial, Unmeasurable
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Threshold
from graphstreams.pipeline.select_plan import PlanChoice, Task
from graphstreams.planning.modelled_plan import listed_wait_us, simulated_plan
from graphstreams.runtime.dispatch import Dispatch, size_source

GainAt = Callable[[Plan, Mapping[str, int]], float]  # share of the serial time that a plan saves at other dynamic sizes


def smaller_sizes(
    task: Task, tokens: Tokens, us: Sequence[float], choice: PlanChoice
) -> tuple[SmallerSizes | None, str]:  # fmt: skip
    """Return a plan for calls with fewer tokens than the one that is compiled, and what to note if none is known to gain.

    `us` are the kernels' times in that call, `choice` its plan, which gains too little.
    """
    plan_at = partial(simulated_plan, device=task.device, options=task.options)
    try:
        costs = _costs_by_size(task, tokens, us, choice)
        found = plan_for_fewer(costs, task.options, listed_wait_us(task.options), plan_at)
    except ValueError as error:  # how the times of the kernels grow is not known
        return None, f"no plan was made for fewer tokens than {tokens.example} ({tokens.size}): {error}"
    return found, "" if found else f"nor would fewer tokens than {tokens.example} ({tokens.size}) gain enough"


def token_range(
    task: Task, tokens: Tokens, us: Sequence[float], choice: PlanChoice, smaller: SmallerSizes | None, gain_at: GainAt | None
) -> tuple[Threshold, list[str]]:
    """Return for which numbers of tokens the plan of `choice`, or of `smaller`, runs, and what to note about that.

    It is measured if `gain_at` is given, and it is that of the file if the plan was given with one.
    """
    plan = smaller.plan if smaller else choice.plan
    assert plan is not None
    if choice.tokens is not None and task.options.max_tokens is None:
        given = choice.tokens
        return Threshold(str(tokens.size), given.largest, (), "as the plan that was given has it", given.smallest), []
    try:
        costs = smaller.costs if smaller else _costs_by_size(task, tokens, us, choice)
        threshold = costs.threshold(plan, task.options)
    except ValueError as error:
        # Without the two curves there is the user's word, or no limit.
        return Threshold(str(tokens.size), task.options.max_tokens, (), f"not solved: {error}"), []
    if gain_at is None or task.options.max_tokens is not None:
        return threshold, []
    known = {tokens.example: choice.measurement.gain} if choice.measurement is not None and smaller is None else {}
    notes: list[str] = []
    low, high = costs.tokens.limits

    def measured_gain(size: int) -> float | None:
        if not low <= size <= high:
            return None
        try:
            return gain_at(plan, costs.times.sizes(size))
        except Unmeasurable as reason:
            notes.append(f"the threshold was not confirmed at {size} tokens: {reason}")
            return None

    point_at = costs.curves(plan).at
    found = confirm(threshold, measured_gain, task.options.min_gain, costs.tokens.example, (low, high), known, point_at)
    return found, notes


def dispatch_by_tokens(threshold: Threshold, sizes: Mapping[str, str]) -> Dispatch:
    """Return which calls run on streams; `sizes` is as `size_source` takes it. Raises StaySerial if no call does."""
    if threshold.largest == 0:
        raise StaySerial("serial", f"no number of tokens gains enough: {threshold.reason}")
    if threshold.largest is None and threshold.smallest == 0:
        return Dispatch()
    size = size_source(threshold.symbol, sizes)
    return Dispatch(size=size, largest=threshold.largest, smallest=threshold.smallest)


def streamed_part(threshold: Threshold | None, example: int | None) -> float:
    """Return the largest number of tokens that runs on streams, as a part of the example's: so much less memory is held."""
    if threshold is None or not threshold.largest or example is None:
        return 1.0
    return min(1.0, threshold.largest / example)


def _costs_by_size(task: Task, tokens: Tokens, us: Sequence[float], choice: PlanChoice) -> CostsBySize:
    costs = costs_by_size(tokens, task.reading.kernels, us, task.device, task.options.event_us)
    if choice.plan is None or choice.measurement is None:
        return replace(costs, joined=task.joined)
    return costs.corrected(choice.plan, choice.measurement.gain)
