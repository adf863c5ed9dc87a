"""Find the number of tokens of a graph and, if each call chooses it, for how many tokens the streams gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.costs.roofline import Roofline
from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves, anchored
from graphstreams.dynamic_shapes.threshold import HIGHEST, GainCurves, SimulateAt, set_by_user, solve
from graphstreams.inductor.scheduler_nodes import most_saved_us
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Threshold
from graphstreams.options import Options
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.paths import Assignment, Timing, serial_us
from graphstreams.planning.simulator import simulator
from graphstreams.runtime.dispatch import size_source, sizes_of

PlanAt = Callable[[KernelGraph, Sequence[float]], Plan]  # from kernels with the sizes to plan for, and the us of each


def token_count(module: fx.GraphModule) -> Any:
    """Return the rows of the graph's first matrix product, which for a language model are its tokens; None if there is none.

    The result is an int, or a SymInt whose comparison adds a guard to the graph.
    """
    return next(_product_rows(module), None)


def _product_rows(module: fx.GraphModule) -> Iterator[Any]:
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._opname in ("mm", "addmm", "_scaled_mm"):
            yield node.meta["val"].shape[0]


@dataclass(frozen=True)
class Tokens:
    """A number of tokens that each call chooses."""

    size: sympy.Expr  # in the graph's dynamic sizes
    example: int  # in the call that is compiled
    limits: tuple[int, int]  # the smallest and the largest that is looked at


def dynamic_tokens(module: fx.GraphModule) -> Tokens | None:
    """Return the number of tokens of a graph, None if it is fixed or a call's inputs don't tell it. Adds no guard.

    It is the first dynamic number of rows of a matrix product. If there is none, as in a network of convolutions, it is the
    first dynamic size of an input.
    """
    inputs = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    known = sizes_of(inputs)
    sizes = (size for value in inputs if isinstance(value, torch.Tensor) for size in value.shape)
    return next((found for size in (*_product_rows(module), *sizes) if (found := _as_tokens(size, known))), None)


def _as_tokens(count: Any, known: Mapping[str, str]) -> Tokens | None:
    """Return a size as a number of tokens, None if it is fixed or no polynomial in the sizes that inputs tell."""
    if not isinstance(count, torch.SymInt):
        return None
    size, example, shape_env = count.node.expr, count.node.hint, count.node.shape_env
    if example is None or shape_env is None or not size.free_symbols:
        return None
    try:
        size_source(str(size), known)
    except ValueError:
        return None
    bounds = shape_env.bound_sympy(size)
    low, high = _whole(bounds.lower, 1), min(_whole(bounds.upper, HIGHEST), HIGHEST)
    return Tokens(size, int(example), (min(max(1, low), int(example)), max(high, int(example))))


def _whole(bound: Any, default: int) -> int:
    return int(bound) if bound.is_Integer else default  # infinity is no integer


@dataclass(frozen=True)
class CostsBySize:
    """What a graph's kernels cost at any number of tokens, alone and side by side."""

    tokens: Tokens
    kernels: KernelGraph
    times: KernelCostCurves
    simulate: SimulateAt
    slowdown: float = 1.0  # how much longer than predicted, beside the serial graph, plans take
    loses_at: int | None = None  # a number of tokens that is known to be too large
    joined: tuple[frozenset[int], ...] = ()  # kernels of which the serial code makes one launch, if times are modelled

    def curves(self, plan: Plan) -> GainCurves:
        """Return the serial and the streamed time over the number of tokens."""
        return GainCurves(self.times, plan, self.simulate, self.slowdown, self._serial_us)

    def _serial_us(self, us: Sequence[float]) -> float:
        return serial_us(self.kernels, us) - most_saved_us(self.joined, us)

    def corrected(self, plan: Plan, measured_gain: float | None) -> CostsBySize:
        """Return the costs with the slowdown at which a plan for the example gains what was measured."""
        _, serial, streamed = replace(self, slowdown=1.0).curves(plan).at(self.tokens.example)
        if measured_gain is None or not streamed:
            return self
        return replace(self, slowdown=(1 - measured_gain) * serial / streamed)

    def threshold(self, plan: Plan, options: Options) -> Threshold:
        """Return for how many tokens `plan`, made at `tokens.example`, gains enough.

        If `options.max_tokens` is set, that is the largest number. Raises ValueError if a kernel has no time at some size.
        """
        curves, symbol, example, limits = self.curves(plan), str(self.tokens.size), self.tokens.example, self.tokens.limits
        if options.max_tokens is not None:
            return set_by_user(curves, symbol, example, options.max_tokens, limits)
        found = solve(curves, symbol, example, options.min_gain, limits)
        if found.largest is None and self.loses_at is not None:
            return replace(found, largest=limits[1], reason=f"{found.reason}: {self.loses_at} gain less")
        return found


def costs_by_size(
    tokens: Tokens, kernels: KernelGraph, us: Sequence[float], device: Device, event_us: float | None = None
) -> CostsBySize:
    """Return the costs of kernels that take `us` us at the example sizes, measured or not.

    The roofline of `device` tells how they grow, and what each takes of the GPU grows with them. A wait across streams adds
    `event_us` us, if it is given. Raises ValueError if the times at other sizes cannot be told.
    """
    model = Roofline(device)
    costs = anchored([model.expression(kernel) for kernel in kernels.kernels], us, kernels.sizes)
    times = KernelCostCurves(costs, tokens.size, kernels.sizes)
    touched = {
        access.bytes for kernel in kernels.kernels if kernel.kind != "none" for access in (*kernel.reads, *kernel.writes)
    }
    curves = {expression: times.curve(expression) for expression in touched}

    def simulate_at(assignment: Assignment, us: Sequence[float], size: int) -> Timing:
        return simulator(kernels, us, device, event_us, value=lambda expression: curves[expression](size))(assignment)

    return CostsBySize(tokens, kernels, times, simulate_at)


@dataclass(frozen=True)
class SmallerSizes:
    """A plan for calls with fewer tokens than the example, which is to run serially."""

    costs: CostsBySize  # its example is the number of tokens that the plan is made for
    plan: Plan
    us: tuple[float, ...]


def plan_for_fewer(costs: CostsBySize, options: Options, event_us: float, plan_at: PlanAt) -> SmallerSizes | None:
    """Return a plan that gains at `options.max_tokens`, else at half the example's tokens, a quarter and so on, if any does.

    Whether a number of tokens gains is told by a list schedule, to which a wait adds `event_us` us; `plan_at` makes the plan.
    Raises ValueError if a kernel has no time at some size.
    """
    low, example = costs.tokens.limits[0], costs.tokens.example
    count = options.max_tokens if options.max_tokens is not None else example // 2
    while count >= low:
        us = costs.times.at(count)
        quick = plan_kernels(costs.kernels, us, options.streams, event_us)
        if quick.streams > 1 and costs.curves(quick).gains(count, options.min_gain):
            plan = plan_at(replace(costs.kernels, sizes=costs.times.sizes(count)), us)
            tokens = replace(costs.tokens, example=count, limits=(low, max(low, example - 1)))
            return SmallerSizes(replace(costs, tokens=tokens, loses_at=example), plan, tuple(us))
        count = 0 if options.max_tokens is not None else count // 2
    return None
