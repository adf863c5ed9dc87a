"""The dynamic number of tokens of a graph: which size it is, and up to how many of them streams gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.costs.devices import Device
from graphstreams.costs.roofline import Roofline
from graphstreams.graph.kernels import KernelGraph
from graphstreams.graph.support import token_count
from graphstreams.planning.growth import KernelTimes, anchored
from graphstreams.planning.paths import timed
from graphstreams.planning.plan import Plan
from graphstreams.planning.threshold import HIGHEST, Curves, Simulate, Threshold, given, solve
from graphstreams.runtime.twin import size_source

PlanAt = Callable[[Sequence[float]], Plan]  # from the us of each kernel


@dataclass(frozen=True)
class Tokens:
    """A number of tokens that calls choose."""

    size: sympy.Expr  # in the graph's dynamic sizes
    example: int  # in the call that is compiled
    limits: tuple[int, int]  # what it can be, and no more than is looked at

    @property
    def symbol(self) -> str:
        """The size as text, such as "s21"."""
        return str(self.size)


def dynamic_tokens(module: fx.GraphModule) -> Tokens | None:
    """The number of tokens of a graph, None where it is fixed or where a call's inputs do not tell it. Adds no guard."""
    count = token_count(module)
    if not isinstance(count, torch.SymInt):
        return None
    size, example = count.node.expr, count.node.hint
    shape_env = count.node.shape_env
    if example is None or shape_env is None or not size.free_symbols:
        return None
    try:
        size_source(str(size), [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")])
    except ValueError:
        return None
    bounds = shape_env.bound_sympy(size)
    low = max(1, _whole(bounds.lower, 1))
    return Tokens(size, int(example), (min(low, int(example)), max(int(example), min(_whole(bounds.upper, HIGHEST), HIGHEST))))


def _whole(bound: Any, default: int) -> int:
    return int(bound) if bound.is_Integer else default


@dataclass(frozen=True)
class Sizing:
    """What a graph's kernels take at any number of tokens, and what a plan of them gains."""

    tokens: Tokens
    kernels: KernelGraph
    times: KernelTimes
    simulate: Simulate = timed
    loses_at: int | None = None  # a number of tokens that is known to be too large

    def threshold(self, plan: Plan, min_gain: float, max_tokens: int | None = None, slowdown: float = 1.0) -> Threshold:
        """For how many tokens `plan`, made at `tokens.example`, gains at least the share `min_gain`.

        `max_tokens` is the user's word for it. `slowdown` is how much longer, beside the serial graph, a plan took where it was
        measured than it was predicted to. Raises ValueError where a kernel has no time at some size.
        """
        curves = Curves(self.kernels, self.times, plan, self.simulate, slowdown)
        symbol, example, limits = self.tokens.symbol, self.tokens.example, self.tokens.limits
        if max_tokens is not None:
            return given(curves, symbol, example, max_tokens, limits)
        found = solve(curves, symbol, example, min_gain, limits)
        if found.largest is None and self.loses_at is not None:
            return replace(found, largest=limits[1], reason=f"{found.reason}: {self.loses_at} gain less")
        return found

    def for_fewer(self, plan_at: PlanAt, min_gain: float, max_tokens: int | None = None) -> tuple[Sizing, Plan] | None:
        """Where the example has too many tokens: the same with a smaller example, and the plan that gains there.

        That example is `max_tokens`, else half the tokens, a quarter and so on; None where none gains. The threshold is then
        below the example of before. `plan_at` makes a plan from the us of each kernel.
        """
        low, example = self.tokens.limits[0], self.tokens.example
        count = max_tokens if max_tokens is not None else example // 2
        while count >= low:
            plan = plan_at(self.times.at(count))
            if plan.streams > 1 and plan.streamed_us <= (1 - min_gain) * plan.serial_us:
                tokens = replace(self.tokens, example=count, limits=(low, max(low, example - 1)))
                return replace(self, tokens=tokens, loses_at=example), plan
            count = 0 if max_tokens is not None else count // 2
        return None


def sizing_of(tokens: Tokens, kernels: KernelGraph, us: Sequence[float], device: Device, simulate: Simulate = timed) -> Sizing:
    """`us` are the kernels' times at the example sizes, measured or not; the roofline of `device` tells how they grow.

    Raises ValueError where the times at other sizes cannot be told.
    """
    model = Roofline(device)
    costs = anchored([model.expression(kernel) for kernel in kernels.kernels], us, kernels.sizes)
    return Sizing(tokens, kernels, KernelTimes(costs, tokens.size, kernels.sizes), simulate)


def slowdown(plan: Plan, measured_gain: float | None) -> float:
    """How much longer, beside the serial graph, a plan took than it was predicted to; 1 where it was not measured."""
    if measured_gain is None or not plan.streamed_us:
        return 1.0
    return (1 - measured_gain) * plan.serial_us / plan.streamed_us
