"""Count what a kernel computes: its floating-point operations, the dtype of its arithmetic, its ATen operations.

Read in torch 2.15.0: `_inductor/dependencies.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor.virtualized import V

from graphstreams.inductor.accesses import bytes_touched, data_reads, hint
from graphstreams.inductor.scheduler_nodes import MATRIX_PRODUCTS


def flops(nodes: Sequence[fx.Node]) -> sympy.Expr:
    """Return the floating-point operations of the matrix products among FX nodes: 2 M N K each.

    Other operations do not count, because memory bandwidth bounds them.
    """
    return sum((_product_flops(node) for node in nodes), sympy.S.Zero)


def _product_flops(node: fx.Node) -> sympy.Expr:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._opname not in MATRIX_PRODUCTS:
        return sympy.S.Zero
    left = next((a for a in node.all_input_nodes if _rank(a) >= 2), None)
    result = node.meta.get("val")
    if left is None or not isinstance(result, torch.Tensor):
        return sympy.S.Zero
    factors = node.args[1 if node.target._opname in ("addmm", "baddbmm") else 0]
    inner = factors.meta["val"].shape[-1] if isinstance(factors, fx.Node) else left.meta["val"].shape[-1]
    return 2 * math.prod((_expression(s) for s in result.shape), start=_expression(inner))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else -1


def _expression(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))


def arithmetic_dtype(nodes: Sequence[Any]) -> str:
    """Return the dtype of the largest operand of scheduler nodes, such as "bfloat16"; empty if they read nothing.

    It decides the rate of a matrix product. Called inside `V.set_graph_handler` of the nodes' graph.
    """
    operands = [(hint(bytes_touched(dep)), dep.name) for node in nodes for dep in data_reads(node)]
    size, name = max(operands, key=itemgetter(0), default=(0.0, ""))
    return str(V.graph.get_dtype(name)).removeprefix("torch.") if size > 0 else ""


def operations(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Return the names of the ATen operations among FX nodes, sorted, without repeats."""
    return tuple(sorted({n.target._opname for n in nodes if isinstance(n.target, torch._ops.OpOverload)}))
