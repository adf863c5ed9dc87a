"""The dynamic number of tokens of a graph: which size it is, and for how many of them streams gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphstreams.costs.footprint import footprints
from graphstreams.costs.roofline import Roofline
from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves, anchored
from graphstreams.dynamic_shapes.threshold import GainCurves, Simulate, set_by_user, solve
from graphstreams.dynamic_shapes.tokens import Tokens
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Threshold
from graphstreams.options import Options
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.paths import Assignment, Timing
from graphstreams.planning.simulator import EVENT_US, simulate

PlanAt = Callable[[KernelGraph, Sequence[float]], Plan]  # from kernels with the sizes to plan for, and the us of each


@dataclass(frozen=True)
class CostsBySize:
    """What a graph's kernels take at any number of tokens."""

    tokens: Tokens
    kernels: KernelGraph
    times: KernelCostCurves
    slowdown: float = 1.0  # of plans, beside the serial graph, against their prediction
    simulate: Simulate | None = None
    loses_at: int | None = None  # a number of tokens that is known to be too large

    def curves(self, plan: Plan) -> GainCurves:
        """Serial and streamed time over the number of tokens."""
        return GainCurves(self.kernels, self.times, plan, self.simulate, self.slowdown)

    def corrected(self, plan: Plan, measured_gain: float | None) -> CostsBySize:
        """The same where a plan for the example was measured to gain other than predicted: all sizes are off by as much."""
        _, serial, streamed = replace(self, slowdown=1.0).curves(plan).at(self.tokens.example)
        if measured_gain is None or not streamed:
            return self
        return replace(self, slowdown=(1 - measured_gain) * serial / streamed)

    def threshold(self, plan: Plan, options: Options) -> Threshold:
        """For how many tokens `plan`, made at `tokens.example`, gains enough.

        `options.max_tokens`, where it is set, is the user's word for the largest number. Raises ValueError where a kernel
        has no time at some size.
        """
        curves, symbol, example, limits = self.curves(plan), str(self.tokens.size), self.tokens.example, self.tokens.limits
        if options.max_tokens is not None:
            return set_by_user(curves, symbol, example, options.max_tokens, limits)
        found = solve(curves, symbol, example, options.min_gain, limits)
        if found.largest is None and self.loses_at is not None:
            return replace(found, largest=limits[1], reason=f"{found.reason}: {self.loses_at} gain less")
        return found


def sizing_of(
    tokens: Tokens, kernels: KernelGraph, us: Sequence[float], device: Device, event_us: float | None = None
) -> CostsBySize:
    """`us` are the kernels' times at the example sizes, measured or not; the roofline of `device` tells how they grow.

    What each kernel takes of the GPU grows with them. A wait across streams adds `event_us` us, where it is given. Raises
    ValueError where the times at other sizes cannot be told.
    """
    model = Roofline(device)
    costs = anchored([model.expression(kernel) for kernel in kernels.kernels], us, kernels.sizes)
    times, predecessors = KernelCostCurves(costs, tokens.size, kernels.sizes), kernels.predecessors()
    touched = {
        access.bytes for kernel in kernels.kernels if kernel.kind != "none" for access in (*kernel.reads, *kernel.writes)
    }
    growths = {expression: times.growth(expression) for expression in touched}

    def simulated(assignment: Assignment, us: Sequence[float], size: int) -> Timing:
        taken = footprints(kernels, us, device, value=lambda expression: growths[expression].at(size))
        # As plans are made: in a CUDA graph the first kernels of all streams wait for nothing.
        return simulate(assignment, predecessors, us, taken, EVENT_US if event_us is None else event_us, fork_us=0.0)

    return CostsBySize(tokens, kernels, times, simulate=simulated)


@dataclass(frozen=True)
class SmallerSizes:
    """A plan for calls with fewer tokens than the example, which is to run serially."""

    sizing: CostsBySize  # its example is the number of tokens that the plan is made for
    plan: Plan
    us: tuple[float, ...]


def plan_for_fewer(sizing: CostsBySize, options: Options, event_us: float, plan_at: PlanAt) -> SmallerSizes | None:
    """A plan that gains at `options.max_tokens`, else at half the example's tokens, a quarter and so on; None without one.

    List schedules, to which a wait adds `event_us` us, tell at how many; `plan_at` makes the plan. Raises ValueError where a
    kernel has no time at some size.
    """
    low, example = sizing.tokens.limits[0], sizing.tokens.example
    count = options.max_tokens if options.max_tokens is not None else example // 2
    while count >= low:
        us = sizing.times.at(count)
        quick = plan_kernels(sizing.kernels, us, options.streams, event_us)
        if quick.streams > 1 and sizing.curves(quick).gains(count, options.min_gain):
            plan = plan_at(replace(sizing.kernels, sizes=sizing.times.sizes(count)), us)
            tokens = replace(sizing.tokens, example=count, limits=(low, max(low, example - 1)))
            return SmallerSizes(replace(sizing, tokens=tokens, loses_at=example), plan, tuple(us))
        count = 0 if options.max_tokens is not None else count // 2
    return None
