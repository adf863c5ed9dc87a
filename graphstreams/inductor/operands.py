"""Tell how many bytes of its operands an operator reads: what their views span, and of tables only the rows that it takes.

All functions are called inside `V.set_graph_handler` of the graph that the nodes belong to.
Read in torch 2.15.0: `_inductor/ir.py` (ExternKernel, ReinterpretView).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from torch._inductor import ir
from torch._inductor.scheduler import ExternKernelSchedulerNode
from torch._inductor.utils import get_dtype_size
from torch._inductor.virtualized import V

from graphstreams.inductor.operator_arithmetic import GROUPED

# Operators that read of their first operand what indices name, at most as much as their result holds.
GATHERS = ("index", "_unsafe_index", "index_select", "gather", "embedding")


def operand_bytes(node: Any) -> dict[str, sympy.Expr]:
    """Return how many bytes of each buffer the operator of a scheduler node reads; empty if the node calls none."""
    if not isinstance(node, ExternKernelSchedulerNode):
        return {}
    operands = _operands(node)
    found: dict[str, sympy.Expr] = {}
    for place, operand in enumerate(operands):
        size = _distinct(operand) * get_dtype_size(operand.get_dtype())
        size = _least(size, _taken(node, operands, place))
        found[operand.get_name()] = found.get(operand.get_name(), sympy.S.Zero) + size
    return found


def streamed_bytes(node: Any) -> sympy.Expr:
    """Return the bytes of the operands of a scheduler node's operator, where each product of a batch reads its own."""
    sizes = (sympy.prod(each.get_size()) * get_dtype_size(each.get_dtype()) for each in _operands(node))
    return sympy.sympify(sum(sizes, sympy.S.Zero))


def vector_results(node: Any) -> sympy.Expr:
    """Return how many results a batch of products of a matrix and a vector has, if cuBLAS computes few of them in each block.

    It does so if the results of each product can't be loaded four at a time; 0 for other products.
    """
    sizes = [output.node.get_size() for output in node.get_outputs()]
    if not sizes or 1 not in sizes[0][1:] or _hint(sympy.prod(sizes[0][1:])) % 4 == 0:
        return sympy.S.Zero
    return sympy.sympify(sympy.prod(sizes[0]))


def operator(node: Any) -> str:
    """Return the name of the operator that a scheduler node calls, such as "addmm"; empty if its code is generated."""
    if not isinstance(node, ExternKernelSchedulerNode) or isinstance(node.node, ir.UserDefinedTritonKernel):
        return ""
    overload = getattr(node.node, "op_overload", None)
    name = getattr(overload, "_opname", "") or str(getattr(node.node, "python_kernel_name", "") or "").rpartition(".")[2]
    return str(name)


def rearranged(node: Any) -> bool:
    """Return whether cuDNN copies the operands and the result of a convolution into the layout with channels last.

    It does so for tensor cores in 16 bits if they are not stored in it. In float32 it has kernels for both layouts.
    """
    image = next(iter(_operands(node)), None)
    if image is None or image.get_dtype().itemsize != 2:
        return False
    sizes, strides = image.get_size(), image.get_stride()
    return bool(sizes[1] != 1 and strides[1] != 1)


def _operands(node: Any) -> list[Any]:
    """Return the tensors that an operator takes, in order."""
    given = getattr(node.node, "inputs", ())
    flat = [each for value in given for each in (value if isinstance(value, Sequence) else [value])]
    tensors = [each for each in flat if isinstance(each, ir.IRNode) and each.maybe_get_size() is not None]
    return [each for each in tensors if each.maybe_get_name()]


def _distinct(operand: Any) -> sympy.Expr:
    """Return how many elements an operand has, those once that a view repeats."""
    layout = operand.maybe_get_layout() if hasattr(operand, "maybe_get_layout") else None
    strides = getattr(layout, "stride", None)
    sizes = list(operand.get_size())
    kept = sizes if strides is None else [size for size, stride in zip(sizes, strides, strict=True) if stride != 0]
    return sympy.sympify(sympy.prod(kept))


def _taken(node: Any, operands: Sequence[Any], place: int) -> sympy.Expr | None:
    """Return how many bytes an operator reads at most of an operand from which it takes parts; None if it reads all."""
    name, operand = operator(node), operands[place]
    width = get_dtype_size(operand.get_dtype())
    if name in GATHERS and place == 0:
        return sympy.prod([size for output in node.get_outputs() for size in output.node.get_size()]) * width
    if name in GROUPED and place == 1 and len(operand.get_size()) == 3 and len(operands[0].get_size()) == 2:
        # A group without rows is passed over: of a mixture of experts, those that no token chose.
        return operands[0].get_size()[0] * sympy.prod(operand.get_size()[1:]) * width
    return None


def _least(size: sympy.Expr, other: sympy.Expr | None) -> sympy.Expr:
    return size if other is None or _hint(size) <= _hint(other) else sympy.sympify(other)


def _hint(expression: sympy.Expr) -> float:
    return float(V.graph.sizevars.optimization_hint(expression, fallback=8192))
