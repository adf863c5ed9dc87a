"""The plan of a graph of which each call chooses the number of tokens, and for which numbers it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphstreams.costs.roofline import price
from graphstreams.dynamic_shapes.crossover import CostsBySize, SmallerSizes, plan_for_fewer, sizing_of
from graphstreams.dynamic_shapes.threshold import confirm
from graphstreams.dynamic_shapes.tokens import Tokens
from graphstreams.errors import StaySerial, Unmeasurable
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.ir.threshold import Threshold
from graphstreams.options import Options
from graphstreams.pipeline.outcome import Outcome, note, stage
from graphstreams.pipeline.select_plan import best_plan
from graphstreams.planning.modelled_plan import listed_wait_us, simulated_plan
from graphstreams.runtime.dispatch import Dispatch, size_source


def plan_for_tokens(
    outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None, tokens: Tokens, sizes: Mapping[str, str]
) -> tuple[Plan, Dispatch]:
    """The plan where each call chooses how many tokens there are, and for how many of them it runs.

    Arguments as for `best_plan`; `sizes` as `size_source` takes them. Where the call that is compiled gains too little, the
    plan is for fewer tokens. Raises StaySerial where no number of them gains enough.
    """
    outcome.example, fewer = tokens.example, None
    try:
        _check_example(outcome, reading, options, tokens)
        plan = best_plan(outcome, reading, options, inputs)
    except StaySerial:
        if not outcome.report.us:
            raise
        # Fewer tokens may gain yet; this call, and others with as many, will run the serial body.
        fewer = _plan_for_fewer(outcome, tokens, options)
        if fewer is None:
            raise
        plan = fewer.plan
    with stage(outcome, "threshold"):
        threshold = _threshold(outcome, plan, fewer, tokens, options)
        outcome.report = replace(outcome.report, threshold=threshold)
        if threshold.largest == 0:
            raise StaySerial("serial", f"no number of tokens gains enough: {threshold.reason}")
        if not threshold.limits:
            return plan, Dispatch()
        size = size_source(threshold.symbol, sizes)
        return plan, Dispatch(size=size, largest=threshold.largest, smallest=threshold.smallest)


def _check_example(outcome: Outcome, reading: Reading, options: Options, tokens: Tokens) -> None:
    if options.max_tokens is not None and tokens.example > options.max_tokens:
        assert outcome.device is not None
        outcome.report = replace(outcome.report, us=tuple(price(reading.kernels, outcome.device)), costs="roofline")
        raise StaySerial("serial", f"there are {tokens.example} tokens, more than max_tokens={options.max_tokens}")


def _plan_for_fewer(outcome: Outcome, tokens: Tokens, options: Options) -> SmallerSizes | None:
    device = outcome.device
    assert device is not None

    def plan_at(kernels: KernelGraph, us: Sequence[float]) -> Plan:
        return simulated_plan(kernels, us, device, options)

    try:
        fewer = plan_for_fewer(_sizing(outcome, tokens, options), options, listed_wait_us(options), plan_at)
    except ValueError:  # how the times of the kernels grow is not known
        return None
    if fewer is not None:
        count = fewer.sizing.tokens.example
        note(outcome, f"planned for {count} tokens: {tokens.example}, of the call that was compiled, run serially")
        outcome.report = replace(outcome.report, plan=fewer.plan, us=fewer.us, measurement=None)
    return fewer


def _threshold(outcome: Outcome, plan: Plan, fewer: SmallerSizes | None, tokens: Tokens, options: Options) -> Threshold:
    try:
        sizing = fewer.sizing if fewer else _sizing(outcome, tokens, options)
        threshold = sizing.threshold(plan, options)
    except ValueError as error:
        # Without the two curves there is the user's word, or no limit.
        return Threshold(str(tokens.size), options.max_tokens, (), f"not solved: {error}")
    if outcome.tuner is None or options.max_tokens is not None:
        return threshold
    measured = outcome.report.measurement  # of the plan for the example; one for fewer tokens has none
    known = {tokens.example: measured.gain} if measured is not None else {}

    def gain_at(size: int) -> float | None:
        return _measured_gain(outcome, plan, sizing, size)

    point_at = sizing.curves(plan).at
    return confirm(threshold, gain_at, options.min_gain, sizing.tokens.example, sizing.tokens.limits, known, point_at)


def _sizing(outcome: Outcome, tokens: Tokens, options: Options) -> CostsBySize:
    report, device = outcome.report, outcome.device
    assert device is not None and report.kernels is not None
    sizing = sizing_of(tokens, report.kernels, report.us, device, options.event_us)
    if report.plan is None or report.measurement is None:
        return sizing
    return sizing.corrected(report.plan, report.measurement.gain)


def _measured_gain(outcome: Outcome, plan: Plan, sizing: CostsBySize, size: int) -> float | None:
    """The share of the serial time that `plan` saves at another number of tokens, None where that cannot be measured."""
    assert outcome.tuner is not None
    low, high = sizing.tokens.limits
    if not low <= size <= high:
        return None
    try:
        return outcome.tuner.gain_at(plan, sizing.times.sizes(size))
    except Unmeasurable as reason:
        note(outcome, f"the threshold was not confirmed at {size} tokens: {reason}")
        return None


def streamed_part(outcome: Outcome) -> float:
    """The largest number of tokens that runs on streams, as a part of the example's: so much less memory is held."""
    threshold = outcome.report.threshold
    if threshold is None or not threshold.largest or outcome.example is None:
        return 1.0
    return min(1.0, threshold.largest / outcome.example)
