"""Count the arithmetic of operators that matrix products bound: FLOPs, and how many products each result adds up.

The formulas are those of `torch.utils.flop_counter`, which tests compare them with, for sizes that may be dynamic. It counts
neither grouped products nor whole encoder layers, and causal attention in full.
Read in torch 2.15.0: `aten/src/ATen/native/native_functions.yaml`, `utils/flop_counter.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

BATCHED = ("bmm", "baddbmm")
GROUPED = ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")
ATTENTION = "_scaled_dot_product_"  # how the names of attention operators begin
ENCODER_LAYER = "_transformer_encoder_layer_fwd"
CONVOLUTION = "convolution"


@dataclass(frozen=True)
class Arithmetic:
    """What an operator computes, in the dynamic sizes."""

    flops: sympy.Expr = sympy.S.Zero
    inner: sympy.Expr = sympy.S.Zero  # how many products each result adds up; for attention the keys of a query
    matrices: sympy.Expr = sympy.S.One  # products of a batch, groups of a convolution, or heads of attention
    channels: sympy.Expr = sympy.S.Infinity  # of each group of a convolution


def arithmetic_of(node: fx.Node) -> Arithmetic | None:
    """Return what an FX node computes; None if it is no matrix product, convolution or attention on known tensors.

    Multiplications and additions count, 2 M N K for a product. Causal attention of equally many queries and keys counts half.
    """
    name = operator_name(node)
    formula = _attention if name.startswith(ATTENTION) else _FORMULAS.get(name)
    return formula(node) if formula else None


def operator_name(node: fx.Node) -> str:
    """Return the name of the ATen operator that an FX node calls, without its overload; empty if it calls none."""
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def argument(node: fx.Node, name: str) -> Any:
    """Return the argument of a call that its schema calls `name`, or its default value."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for place, each in enumerate(node.target._schema.arguments):
        if each.name == name:
            given = node.args[place] if place < len(node.args) and not each.kwarg_only else node.kwargs.get(name)
            return each.default_value if given is None else given
    return None


def sizes_of(value: Any) -> list[sympy.Expr]:
    """Return the sizes of an FX node's tensor; none if it has no tensor."""
    tensor = value.meta.get("val") if isinstance(value, fx.Node) else None
    return [_expression(size) for size in tensor.shape] if isinstance(tensor, torch.Tensor) else []


def _expression(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))


def _matrix_product(node: fx.Node) -> Arithmetic | None:
    # A bias comes in front.
    left = sizes_of(node.args[1 if operator_name(node) in ("addmm", "baddbmm") else 0])
    result = sizes_of(node)
    if not left or not result:
        return None
    batch = result[0] if operator_name(node) in BATCHED else sympy.S.One
    return Arithmetic(2 * math.prod(result, start=left[-1]), left[-1], batch)


def _grouped_product(node: fx.Node) -> Arithmetic | None:
    left, right, result = sizes_of(node.args[0]), sizes_of(node.args[1]), sizes_of(node)
    if not left or not right or not result:
        return None
    groups = right[0] if len(right) == 3 else left[0] if len(left) == 3 else result[0]
    # If both have two dimensions the inner one is divided among the groups, each of which has a result of its own.
    shared = groups if len(left) == len(right) == 2 else sympy.S.One
    return Arithmetic(2 * math.prod(result, start=left[-1]) / shared, left[-1] / shared, groups)


def _convolution(node: fx.Node) -> Arithmetic | None:
    image, weight, result = sizes_of(node.args[0]), sizes_of(node.args[1]), sizes_of(node)
    if not image or not weight or not result:
        return None
    groups = _expression(argument(node, "groups"))
    channels = image[-len(weight) + 1] / groups
    # Each element of the result, or of a transposed convolution's input, meets all of one filter.
    met = image if argument(node, "transposed") else result
    flops = 2 * math.prod(met) * math.prod(weight[1:])
    # A convolution of each channel by itself runs all of its groups at once, others run one after another.
    return Arithmetic(flops, flops / (2 * math.prod(result)), sympy.S.One if channels == 1 else groups, channels)


def _attention(node: fx.Node) -> Arithmetic | None:
    query, key, value = (sizes_of(argument(node, name)) for name in ("query", "key", "value"))
    if not query or not key or not value:
        return None
    flops = 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    causal = argument(node, "is_causal") is True and query[-2] == key[-2]
    # The keys of a single query are divided among blocks.
    inner = sympy.S.Zero if query[-2] == 1 else key[-2]
    return Arithmetic(flops / 2 if causal else flops, inner, math.prod(query[:-2]))


def _encoder_layer(node: fx.Node) -> Arithmetic | None:
    source, hidden = sizes_of(argument(node, "src")), sizes_of(argument(node, "ffn_weight_1"))
    if len(source) != 3 or not hidden:
        return None
    batch, length, width = source
    # Four projections of the attention, its two products, and the two of the feed-forward network.
    each_token = 2 * (4 * width**2 + 2 * length * width + 2 * width * hidden[0])
    return Arithmetic(batch * length * each_token, width)


_FORMULAS: Mapping[str, Callable[[fx.Node], Arithmetic | None]] = {
    **dict.fromkeys(("mm", "bmm", "addmm", "bias_addmm", "baddbmm", "_int_mm", "_scaled_mm", "_scaled_mm_v2"), _matrix_product),
    **dict.fromkeys(GROUPED, _grouped_product),
    CONVOLUTION: _convolution,
    ENCODER_LAYER: _encoder_layer,
}


def total(found: Sequence[Arithmetic]) -> Arithmetic:
    """Return the arithmetic of a launch that does several, whose results add up as many products as those of the longest."""
    if len(found) == 1:
        return found[0]
    flops = sum((each.flops for each in found), sympy.S.Zero)
    return Arithmetic(flops, found[-1].inner, found[-1].matrices) if found else Arithmetic()
