"""Find the number of tokens of a graph, if each call chooses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.dynamic_shapes.threshold import HIGHEST
from graphstreams.runtime.dispatch import size_source, sizes_of


def token_count(module: fx.GraphModule) -> Any:
    """Return the rows of the graph's first matrix product, which for a language model are its tokens; None if there is none.

    The result is an int, or a SymInt whose comparison adds a guard to the graph.
    """
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._opname in ("mm", "addmm", "_scaled_mm"):
            return node.meta["val"].shape[0]
    return None


@dataclass(frozen=True)
class Tokens:
    """A number of tokens that each call chooses."""

    size: sympy.Expr  # in the graph's dynamic sizes
    example: int  # in the call that is compiled
    limits: tuple[int, int]  # the smallest and the largest that is looked at


def dynamic_tokens(module: fx.GraphModule) -> Tokens | None:
    """Return the number of tokens of a graph, None if it is fixed or a call's inputs don't tell it. Adds no guard."""
    count = token_count(module)
    if not isinstance(count, torch.SymInt):
        return None
    size, example, shape_env = count.node.expr, count.node.hint, count.node.shape_env
    if example is None or shape_env is None or not size.free_symbols:
        return None
    try:
        size_source(str(size), sizes_of([node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]))
    except ValueError:
        return None
    bounds = shape_env.bound_sympy(size)
    low, high = _whole(bounds.lower, 1), min(_whole(bounds.upper, HIGHEST), HIGHEST)
    return Tokens(size, int(example), (min(max(1, low), int(example)), max(high, int(example))))


def _whole(bound: Any, default: int) -> int:
    return int(bound) if bound.is_Integer else default  # infinity is no integer
