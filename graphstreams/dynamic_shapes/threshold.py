"""Find the sizes at which a plan gains: predicted serial and streamed time over a dynamic size, and where they meet.

At few tokens latencies decide, and kernels side by side hide them; at many each kernel fills the GPU. `solve` tries the powers
of two and bisects, over whole sizes, between one that gains and one that does not. A change back and forth between two sizes
that it tries is missed. `confirm` then measures at a few sizes what was predicted.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import fsum, sqrt

from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Point, Threshold
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.paths import Assignment, Timing

SimulateAt = Callable[[Assignment, Sequence[float], int], Timing]  # from the us of each kernel at a size, and that size

HIGHEST = 2**16  # sizes above are not looked at
CONFIRMATIONS = 6  # sizes that are measured at most
PLAUSIBLE = 16  # times the example, up to which a size without a limit is measured
STEP_DOWN = 4  # from a size that does not gain to the next that is measured, if none is known to gain
TIE_RATIO = 1.1  # times a size that gains, below which one that does not is near enough
ROUNDING = 1e-9  # of sums taken in another order


class GainCurves:
    """Predicted serial and streamed us of one plan over a size."""

    def __init__(
        self, times: KernelCostCurves, plan: Plan, simulate: SimulateAt, slowdown: float = 1.0,
        serial_us: Callable[[Sequence[float]], float] = fsum,
    ) -> None:  # fmt: skip
        """`slowdown` is how much longer than predicted, beside the serial graph, the plan took when it was measured.

        `serial_us` returns the time of the serial graph from that of each kernel.
        """
        self._times, self._assignment, self._simulate, self._slowdown = times, assignment_of(plan), simulate, slowdown
        self._serial_us, self._known = serial_us, dict[int, Point]()

    def at(self, size: int) -> Point:
        """Return the size with both times. Raises ValueError if a kernel has none."""
        if size not in self._known:
            us = self._times.at(size)
            streamed = self._simulate(self._assignment, us, size).makespan * self._slowdown
            self._known[size] = size, self._serial_us(us), streamed
        return self._known[size]

    def gains(self, size: int, min_gain: float) -> bool:
        """Return whether at `size` at least the share `min_gain` of the serial time is saved."""
        _, serial, streamed = self.at(size)
        return streamed <= (1 - min_gain) * serial * (1 + ROUNDING)


def solve(curves: GainCurves, symbol: str, example: int, min_gain: float, limits: tuple[int, int] = (1, HIGHEST)) -> Threshold:
    """Return the sizes around `example`, for which the plan was made, at which the predicted gain is at least `min_gain`.

    If `example` does not gain: the nearest smaller sizes that do, else the nearest larger ones. Looked at are sizes within
    `limits`, both included. Raises ValueError if there is no size within `limits`, or a kernel has no time.
    """
    low, high = limits
    if not 1 <= low <= high:
        raise ValueError(f"no size is from {low} to {high}")
    grid = [size for size in _sizes(low, high, example) if low <= size <= high]
    gaining = [size for size in grid if curves.gains(size, min_gain)]
    if not gaining:
        reason = f"no size tried from {low} to {high} gains {min_gain:.1%}"
        return Threshold(symbol, 0, tuple(map(curves.at, _sizes(low, high, example))), reason)
    inside = max((size for size in gaining if size <= example), default=gaining[0])
    losing = set(grid) - set(gaining)
    below = max((size for size in losing if size < inside), default=low - 1)
    above = min((size for size in losing if size > inside), default=high + 1)
    smallest = _edge(curves, min_gain, min(size for size in gaining if size > below), below)
    largest = _edge(curves, min_gain, max(size for size in gaining if size < above), above)
    reason = f"each size tried from {smallest} to {largest} gains {min_gain:.1%} or more"
    reason += f", {largest + 1} does not" if largest < high else "; larger ones were not looked at"
    marks = [size for size in (smallest - 1, smallest, largest, largest + 1) if low <= size <= high]
    return Threshold(
        symbol=symbol,
        largest=largest if largest < high else None,
        curve=tuple(map(curves.at, _sizes(low, high, example, *marks))),
        reason=reason,
        smallest=smallest if smallest > low else 0,
    )


def set_by_user(curves: GainCurves, symbol: str, example: int, max_size: int, limits: tuple[int, int]) -> Threshold:
    """Return the threshold that the user gave, with the same curves. Nothing is solved; arguments otherwise as for `solve`."""
    curve = map(curves.at, _sizes(*limits, example, max_size, max_size + 1))
    return Threshold(symbol, max_size, tuple(curve), f"max_tokens={max_size}")


def confirm(
    threshold: Threshold,
    gain_at: Callable[[int], float | None],
    min_gain: float,
    example: int,
    limits: tuple[int, int] = (1, HIGHEST),
    known: Mapping[int, float] | None = None,
    point_at: Callable[[int], Point] | None = None,
) -> Threshold:
    """Return the threshold after measuring around its largest size, or at the upper end of `limits` if it has none.

    - `gain_at` returns the share of the serial time that is saved at a size, or None if that cannot be measured. A size gains
      with a share of `min_gain` or more. `known` has what was measured before.
    - The first size is the largest predicted to gain. If all are, it is the upper limit or, if that is HIGHEST or more, the
      largest power of two up to PLAUSIBLE times `example`.
    - A size that gains is doubled, one that does not is divided by STEP_DOWN until one gains; between the two comes their
      geometric mean. At most CONFIRMATIONS sizes are measured, up to the first that cannot be.
    - The new largest size is one that was measured or known to gain, below the smallest that does not; 0 without one; still
      None if the first gains. If nothing could be measured, the threshold is returned as it is.
    - `point_at` returns what was predicted, for the curve at those sizes and on both sides of the new limit.
    """
    if threshold.largest == 0:
        return threshold
    low, high = max(limits[0], threshold.smallest), limits[1]
    start = threshold.largest or _plausible(max(low, example), high)
    gains = dict(known or {})
    for _ in range(CONFIRMATIONS):
        gaining, losing = _between(gains, min_gain, low, high)
        if threshold.largest is None and losing is None and gaining >= start:
            break
        size = _next(gaining, losing, start, low, high)
        gain = None if size is None else gain_at(size)
        if size is None or gain is None:
            break
        gains[size] = gain
    gaining, losing = _between(gains, min_gain, low, high)
    if losing is None and gaining < start:
        return threshold
    unlimited = threshold.largest is None and losing is None
    measured = tuple(sorted(gains.items()))
    told = ", ".join(f"{size}: {gain:.1%}" for size, gain in measured)
    limit = f"; measured up to {gaining}" if unlimited else ""
    reason = f"predicted: {threshold.reason}{limit}; measured gains: {told}"
    marks = [size for size in {*gains, gaining, gaining + 1} if low <= size <= high]
    curve = tuple(sorted({*threshold.curve, *(map(point_at, marks) if point_at is not None else ())}))
    return replace(threshold, largest=None if unlimited else gaining, reason=reason, curve=curve, measured=measured)


def _plausible(example: int, high: int) -> int:
    """Return the first size to measure if every one is predicted to gain."""
    return high if high < HIGHEST else min(high, 2 ** ((PLAUSIBLE * example).bit_length() - 1))


def _between(gains: Mapping[int, float], min_gain: float, low: int, high: int) -> tuple[int, int | None]:
    """Return the largest size that gains below the smallest that does not, or 0, and that one. Sizes outside don't count."""
    losing = min((size for size, gain in gains.items() if low <= size <= high and gain < min_gain), default=None)
    below = [size for size, gain in gains.items() if low <= size <= high and gain >= min_gain]
    return max((size for size in below if losing is None or size < losing), default=0), losing


def _next(gaining: int, losing: int | None, start: int, low: int, high: int) -> int | None:
    """Return the size to measure next, or None if that would tell no more. Arguments as in `_between` and `confirm`."""
    if losing is None:
        size = start if gaining < start else min(high, 2 * gaining)
        return size if size > gaining else None
    if not gaining:
        return max(low, losing // STEP_DOWN) if losing > low else None
    middle = round(sqrt(gaining * losing))
    return middle if gaining < middle < losing and losing >= TIE_RATIO * gaining else None


def _sizes(low: int, high: int, *marks: int) -> list[int]:
    """Return both limits, the powers of two between them, and `marks`."""
    return sorted({low, high, *marks} | {2**k for k in range(high.bit_length()) if 2**k >= low})


def _edge(curves: GainCurves, min_gain: float, gaining: int, losing: int) -> int:
    """Return, by bisection, the last size that gains on the way from one that does to one that does not."""
    sizes = range(gaining, losing, 1 if losing > gaining else -1)
    return sizes[bisect(sizes, False, lo=1, key=lambda size: not curves.gains(size, min_gain)) - 1]
