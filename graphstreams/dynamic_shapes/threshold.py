"""Up to which value of a dynamic size a plan gains: predicted serial and streamed time over the size, and where they meet.

At few tokens latencies decide, and kernels side by side hide them; at many each kernel fills the GPU. Between two sizes
where some kernel's time stops being linear, the serial time is linear and the simulated one convex, a maximum of sums. So is
the difference: it changes sign once between a size that gains and one that does not, and never between two that gain.
Bisection over whole sizes then finds the exact threshold. With a simulator that knows contention, as plans are made with,
the difference has no such form; there, and where a kernel's time is no maximum of lines, a change back and forth between two
of the sizes that are tried, powers of two among them, can be missed. What was predicted is then measured at a few sizes
(`confirm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, fsum, sqrt

from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Point, Threshold
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.paths import Assignment, Timing, timed

Simulate = Callable[[Assignment, Sequence[float], int], Timing]  # from the us of each kernel at a size, and that size
Replan = Callable[[Sequence[float]], Plan]  # from the us of each kernel

HIGHEST = 2**16  # sizes above are not looked at
CONFIRMATIONS = 6  # sizes that are measured at most
PLAUSIBLE = 16  # times the example, up to which a size without a limit is measured
STEP_DOWN = 4  # from a size that does not gain to the next that is measured, where none is known to gain
TIE_RATIO = 1.1  # times a size that gains, below which one that does not is near enough
ROUNDING = 1e-9  # of sums taken in another order


class GainCurves:
    """Predicted serial and streamed us of one graph over a size."""

    def __init__(
        self,
        graph: KernelGraph,
        times: KernelCostCurves,
        plan: Plan | Replan,
        simulate: Simulate | None = None,
        slowdown: float = 1.0,
    ) -> None:
        """`plan` is one for every size, or makes one from the kernels' times at each. `simulate` times one for every size;
        without it kernels side by side cost what they cost alone.

        `slowdown` is how much longer, beside the serial graph, the plan took where it was measured than it was predicted to.
        """
        self._times, self._plan, self._simulate, self._slowdown = times, plan, simulate, slowdown
        self._predecessors = graph.predecessors()
        self._known: dict[int, Point] = {}

    def at(self, size: int) -> Point:
        """The size with both times. Raises ValueError where a kernel has none."""
        if size not in self._known:
            us = self._times.at(size)
            self._known[size] = (size, fsum(us), self._streamed(us, size) * self._slowdown)
        return self._known[size]

    def _streamed(self, us: Sequence[float], size: int) -> float:
        if not isinstance(self._plan, Plan):
            return self._plan(us).streamed_us
        assignment = assignment_of(self._plan)
        if self._simulate is not None:
            return self._simulate(assignment, us, size).makespan
        return timed(assignment, self._predecessors, us, self._plan.event_us).makespan

    def gains(self, size: int, min_gain: float) -> bool:
        """Whether at `size` at least the share `min_gain` of the serial time is saved."""
        _, serial, streamed = self.at(size)
        return streamed <= (1 - min_gain) * serial * (1 + ROUNDING)

    def corners(self) -> list[float]:
        """Sizes where a kernel's time stops being linear, as far as they are known; none with a simulator."""
        # Each kernel has some, and each would be simulated, yet between them the difference need not be convex.
        return (self._times.breakpoints() or []) if self._simulate is None else []

    @property
    def exact(self) -> bool:
        """Whether between two corners the difference of both times is known to be convex."""
        return isinstance(self._plan, Plan) and self._simulate is None and self._times.breakpoints() is not None


def solve(curves: GainCurves, symbol: str, example: int, min_gain: float, limits: tuple[int, int] = (1, HIGHEST)) -> Threshold:
    """The sizes around `example`, for which the plan was made, at which the predicted gain is at least `min_gain`.

    Where `example` does not gain, the nearest smaller sizes that do, else the nearest larger ones. Looked at are sizes
    within `limits`, both included. Raises ValueError for limits in which no size is, or where a kernel has no time.
    """
    low, high = limits
    if not 1 <= low <= high:
        raise ValueError(f"no size is from {low} to {high}")
    grid = _grid(low, high, example, curves.corners())
    run = _run(grid, [curves.gains(size, min_gain) for size in grid], example)
    if run is None:
        reason = f"no size{_tried(curves)} from {low} to {high} gains {min_gain:.1%}"
        return Threshold(symbol, 0, _curve(curves, low, high, [example]), reason)
    first, last = run
    smallest, largest = grid[first], grid[last]
    if first > 0:
        smallest = _edge(curves, min_gain, smallest, grid[first - 1])
    if last + 1 < len(grid):
        largest = _edge(curves, min_gain, largest, grid[last + 1])
    reason = f"each size{_tried(curves)} from {smallest} to {largest} gains {min_gain:.1%} or more"
    reason += f", {largest + 1} does not" if largest < high else "; larger ones were not looked at"
    marks = [size for size in (smallest - 1, smallest, largest, largest + 1) if low <= size <= high]
    return Threshold(
        symbol=symbol,
        largest=largest if largest < high else None,
        curve=_curve(curves, low, high, [*marks, example]),
        reason=reason,
        smallest=smallest if smallest > low else 0,
    )


def set_by_user(curves: GainCurves, symbol: str, example: int, max_size: int, limits: tuple[int, int]) -> Threshold:
    """The threshold that the user gave, with the same curves; nothing is solved. Arguments otherwise as for `solve`."""
    low, high = limits
    curve = _curve(curves, low, high, [example, max_size, max_size + 1])
    return Threshold(symbol, max_size, curve, f"max_tokens={max_size}")


def confirm(
    threshold: Threshold,
    gain_at: Callable[[int], float | None],
    min_gain: float,
    example: int,
    limits: tuple[int, int] = (1, HIGHEST),
    known: Mapping[int, float] | None = None,
    point_at: Callable[[int], Point] | None = None,
) -> Threshold:
    """The threshold after measuring around its largest size, or at the upper end of `limits` where it has none.

    `gain_at` tells the share of the serial time that is saved at a size, or None where that cannot be measured; `known` has
    what was measured before. A size gains with a share of `min_gain` or more. Where the upper limit is HIGHEST or more, the
    largest power of two up to PLAUSIBLE times `example` stands for it. A size that gains is doubled, one that does not divided
    by STEP_DOWN until one gains; between the two the middle is taken, as of a geometric series. The largest size is then one
    that was measured or known to gain, below the smallest that does not; 0 without one; still None where the first gains. At
    most CONFIRMATIONS sizes are measured, up to the first that cannot be; where not even the first can, the threshold is
    returned as it is. `point_at` gives what was predicted, for the curve at those sizes and on both sides of the new limit.
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
    """The first size to measure where every one is predicted to gain."""
    return high if high < HIGHEST else min(high, 2 ** ((PLAUSIBLE * example).bit_length() - 1))


def _between(gains: Mapping[int, float], min_gain: float, low: int, high: int) -> tuple[int, int | None]:
    """The largest size that gains below the smallest that does not, or 0, and that one. Sizes outside do not count."""
    losing = min((size for size, gain in gains.items() if low <= size <= high and gain < min_gain), default=None)
    below = [size for size, gain in gains.items() if low <= size <= high and gain >= min_gain]
    return max((size for size in below if losing is None or size < losing), default=0), losing


def _next(gaining: int, losing: int | None, start: int, low: int, high: int) -> int | None:
    """The size to measure next, None where that would tell no more. Arguments as `_between` and `confirm` have them."""
    if losing is None:
        size = start if gaining < start else min(high, 2 * gaining)
        return size if size > gaining else None
    if not gaining:
        return max(low, losing // STEP_DOWN) if losing > low else None
    middle = round(sqrt(gaining * losing))
    return middle if gaining < middle < losing and losing >= TIE_RATIO * gaining else None


def _tried(curves: GainCurves) -> str:
    return "" if curves.exact else " tried"


def _grid(low: int, high: int, example: int, corners: Iterable[float]) -> list[int]:
    """Sizes to look at first."""
    powers = {2**k for k in range(high.bit_length())}
    rounded = {whole for corner in corners for whole in (floor(corner), ceil(corner))}
    return sorted(size for size in {low, high, example} | powers | rounded if low <= size <= high)


def _run(grid: Sequence[int], gaining: Sequence[bool], example: int) -> tuple[int, int] | None:
    """First and last place of the gaining sizes around the example, else of those next below, else next above."""
    below = [i for i, size in enumerate(grid) if gaining[i] and size <= example]
    above = [i for i, size in enumerate(grid) if gaining[i] and size > example]
    if not below and not above:
        return None
    first = last = below[-1] if below else above[0]
    while first > 0 and gaining[first - 1]:
        first -= 1
    while last + 1 < len(grid) and gaining[last + 1]:
        last += 1
    return first, last


def _edge(curves: GainCurves, min_gain: float, gaining: int, losing: int) -> int:
    """The size next to one that loses that still gains, by bisection."""
    while abs(losing - gaining) > 1:
        middle = (losing + gaining) // 2
        if curves.gains(middle, min_gain):
            gaining = middle
        else:
            losing = middle
    return gaining


def _curve(curves: GainCurves, low: int, high: int, marks: Iterable[int]) -> tuple[Point, ...]:
    powers = {2**k for k in range(high.bit_length()) if low <= 2**k <= high}
    return tuple(curves.at(size) for size in sorted(powers | {low, high} | set(marks)))
