"""Find a post-grad graph's products of few rows with a weight, and replace them by launches of this package's kernels.

Read in torch 2.15.0: `native_functions.yaml` (mm, addmm, _scaled_mm, _scaled_mm_v2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphstreams.inductor.own_kernels import LAYOUTS_MAY_CHANGE, keeps_layouts, launch_program, stored
from graphstreams.kernels.few_rows import kernel, product_of, program
from graphstreams.kernels.few_rows_forms import DTYPES, ROWS_LIMIT, Form, Product

_aten = torch.ops.aten
_TRANSPOSES = (_aten.permute.default, _aten.t.default, _aten.transpose.int)  # which keep where the memory begins
_TARGETS = tuple(
    getattr(getattr(_aten, name), overload)
    for name, overload in (
        ("mm", "default"), ("mm", "dtype"), ("addmm", "default"), ("_scaled_mm", "default"), ("_scaled_mm_v2", "default"),
    )
    if hasattr(getattr(_aten, name, None), overload)
)  # fmt: skip
# Pairs of `torch.nn.functional.ScalingType`: of tensors, of rows, of 128 elements of a row with 128 x 128 of the weight. Shapes
# don't tell them: _scaled_mm_v2 takes scales of 128 elements of a column as [N, K / 128], as a square weight's may be.
_RECIPES = ((0, 0), (1, 1), (4, 5))


@dataclass(frozen=True)
class WeightProduct:
    """A call in a graph that multiplies few rows with a weight, as the kernels know it."""

    node: fx.Node
    product: Product
    operands: Mapping[str, fx.Node]  # by the names that launches have
    weight: fx.Node  # the graph's input

    @property
    def operation(self) -> str:
        """What tells torch's own product from others: operator, shapes, dtypes, and arguments that are no tensors."""
        names, bias = {node: name for name, node in self.operands.items()}, self.operands.get("bias")
        arguments = fx.map_arg((self.node.args, self.node.kwargs), lambda node: names.get(node, ""))
        return f"{self.node.target} {self.product} {bias.meta['val'].dtype if bias is not None else None} {arguments}"


@dataclass(frozen=True)
class Left:
    """A product with a weight that stays as it is, and why."""

    node: fx.Node
    weight: fx.Node
    reason: str


def weight_products(graph: fx.Graph) -> tuple[list[WeightProduct], list[Left]]:
    """Return the products on CUDA with an input of the graph that is only read: those that the kernels can do, and the others.

    Products of other values are in neither list, nor are those of more than 64 rows.
    """
    found: list[WeightProduct] = []
    left: list[Left] = []
    for node in graph.nodes:
        weight = _weight(node)
        if weight is None:
            continue
        each = described(node, weight)
        if isinstance(each, WeightProduct):
            found.append(each)
        elif each:
            left.append(Left(node, weight, each))
    return found, left


def described(node: fx.Node, weight: fx.Node) -> WeightProduct | str:
    """Return what a product with a weight does as the kernels see it, or else why they can't; "" if it has too many rows."""
    given = _arguments(node)
    x, w = given["self" if node.target is not _aten.addmm.default else "mat1"], given["mat2"]
    values = [each.meta["val"] for each in (x, w)]
    if values[0].dtype not in DTYPES:
        return f"the kernels are for 16 bits and float8, not for {str(values[0].dtype).removeprefix('torch.')}"
    if not all(isinstance(size, int) for value in values for size in (*value.shape, *value.stride())):
        return "its sizes are dynamic, and a form is chosen for one number of rows"
    if values[0].shape[0] > ROWS_LIMIT:
        return ""
    if 0 in (*values[0].shape, *values[1].shape):
        return "it is empty"
    if any(size > 1 and stride == 0 for size, stride in zip(values[1].shape, values[1].stride(), strict=True)):
        return "elements of its weight share memory"
    if not keeps_layouts():
        return LAYOUTS_MAY_CHANGE
    operands = {"x": x, "w": w, **_others(node, given)} if not (reason := _unusual(node, given)) else {}
    if reason:
        return reason
    tensors = {name: each.meta["val"] for name, each in operands.items()}
    try:
        product = product_of(**tensors, out_dtype=node.meta["val"].dtype)
    except ValueError as error:
        return str(error)
    if product.scaling == "block" and not _is_along_depth(tensors["scale_w"]):
        return "the scales of its weight's blocks may be meant as they are or transposed"
    return WeightProduct(node, product, operands, weight)


def replace_product(gm: fx.GraphModule, found: WeightProduct, form: Form, us: float) -> None:
    """Replace a product by a form's launches, which take `us` us together. Raises ValueError if the form can't do it."""
    work, node = program(found.product, form), found.node
    with gm.graph.inserting_before(node):
        operands = {name: _operand(gm.graph, each) for name, each in found.operands.items()}
        made = launch_program(gm.graph, node, work, operands, kernel, us, {})
    node.replace_all_uses_with(made["out"])
    gm.graph.erase_node(node)


def _weight(node: fx.Node) -> fx.Node | None:
    """Return the input of the graph that a call multiplies with, if it is a product on CUDA and nothing writes that input."""
    if node.op != "call_function" or node.target not in _TARGETS:
        return None
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.device.type != "cuda":
        return None
    base = _base(_arguments(node)["mat2"])
    return base if base.op == "placeholder" and not _is_written(base) else None


def _base(node: fx.Node) -> fx.Node:
    """Return what a value is a transpose of: the memory of both begins at the same place."""
    while node.op == "call_function" and node.target in _TRANSPOSES:
        node = node.all_input_nodes[0]
    return node


def _is_written(node: fx.Node) -> bool:
    """Return whether anything may write an input of the graph: what isn't known to only read it does."""
    pending = [node]
    while pending:
        for user in pending.pop().users:
            if user.op == "output" or user.target in _TARGETS:
                continue
            if user.op != "call_function" or not isinstance(user.target, torch._ops.OpOverload):
                return True
            if user.target._schema.is_mutable:
                return True
            if _may_alias(user.target):
                pending.append(user)
    return False


def _may_alias(operator: torch._ops.OpOverload) -> bool:
    return any(result.alias_info is not None for result in operator._schema.returns) or operator is _aten.reshape.default


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a call by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: argument.default_value for argument in schema}
    given.update(zip([argument.name for argument in schema], node.args, strict=False))
    return {**given, **node.kwargs}


def _unusual(node: fx.Node, given: Mapping[str, Any]) -> str:
    """Return what of a call's arguments the kernels have nothing for; empty if they have."""
    if node.target is _aten.addmm.default:
        if given["beta"] != 1 or given["alpha"] != 1:
            return "its terms have factors"
        if given["self"].meta["val"].dim() != 1:
            return "what is added to it is no vector with an element a column"
    if given.get("scale_result") is not None:
        return "its result is scaled"
    if any(len(given[name]) != 1 for name in ("scale_a", "scale_b") if isinstance(given.get(name), list | tuple)):
        return "its operands have scales of several kinds"
    if given.get("recipe_a") is not None and (*given["recipe_a"], *given["recipe_b"]) not in _RECIPES:
        return "its scales are for blocks that the kernels have nothing for"
    if any(any(given.get(name) or ()) for name in ("swizzle_a", "swizzle_b")):
        return "its scales are swizzled"
    return ""


def _is_along_depth(scale: torch.Tensor) -> bool:
    """Return whether a weight's scales `[K / 128, N / 128]` are told from transposed ones, by their shape or as torch does it.

    Read in torch 2.15.0: `_inductor/kernel/mm.py` (_uses_cublas_blockwise128x128_layout).
    """
    rows, columns = scale.shape
    return rows != columns or rows == 1 or tuple(scale.stride()) == (1, rows)


def _others(node: fx.Node, given: Mapping[str, Any]) -> dict[str, fx.Node]:
    """Return a product's operands beside its factors."""
    bias = given["self"] if node.target is _aten.addmm.default else given.get("bias")
    named = {"bias": bias, "scale_x": given.get("scale_a"), "scale_w": given.get("scale_b")}
    only = {name: each[0] if isinstance(each, list | tuple) else each for name, each in named.items()}
    return {name: each for name, each in only.items() if isinstance(each, fx.Node)}


def _operand(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Return what a kernel is given for an operand: an input of the graph itself, else the value as it is stored.

    A kernel reads by strides that are among its numbers, so of a transpose it needs the memory only.
    """
    base = _base(node)
    return base if base.op == "placeholder" else stored(graph, node)
