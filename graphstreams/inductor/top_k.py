"""Replace top-k in a post-grad graph by launches of this package's kernels."""

from __future__ import annotations

import itertools
import logging
import math
import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.inductor.lowering import copy_graph
from graphstreams.inductor.own_kernels import LAYOUTS_MAY_CHANGE, add_notes, keeps_layouts, launch_program, noted, stored
from graphstreams.inductor.size_nodes import SizeNodes, expressions
from graphstreams.kernels.launches import Program
from graphstreams.kernels.top_k import Choice, DynamicLength, TopK, program
from graphstreams.kernels.top_k_calls import kernel
from graphstreams.messages import with_type

log = logging.getLogger("graphstreams")

_aten = torch.ops.aten
Choose = Callable[[TopK], Choice]
_ADVICE = "torch._dynamo.mark_dynamic with min and max, or an `if` on the length, tells one"


def replace_top_k(gm: fx.GraphModule, choose: Choose) -> list[str]:
    """Replace each top-k of `gm` on CUDA for which `choose` names a form; return notes on what was chosen, and why.

    The notes are kept in the graph's meta, too, for the report. If a replacement fails, all stay as they were.
    """
    chosen = [(node, *_chosen(node, choose)) for node in _on_cuda(gm.graph)]
    notes = [
        f"top-k {node.name!r} {'is replaced' if choice.form else 'stays as aten has it'}: {choice.reason}"
        for node, _, choice in chosen
    ]
    if any(choice.form for _, _, choice in chosen):
        before = copy_graph(gm).graph
        try:
            for node, found, choice in chosen:
                if choice.form is not None and found is not None:
                    _replace(gm, node, program(found, choice.form), choice.us)
            gm.graph.lint()
        except Exception as error:  # a faster top-k is not worth a compile
            log.debug("top-k can't be replaced", exc_info=True)
            gm.graph = before
            notes = [f"every top-k stays as aten has it: {with_type(error)}; please report it"]
        gm.recompile()
    add_notes(gm, notes)
    return notes


def _on_cuda(graph: fx.Graph) -> list[fx.Node]:
    nodes = graph.find_nodes(op="call_function", target=_aten.topk.default)
    values = [(node, _input(node).meta.get("val")) for node in nodes]
    return [node for node, value in values if isinstance(value, torch.Tensor) and value.device.type == "cuda"]


def _chosen(node: fx.Node, choose: Choose) -> tuple[TopK | None, Choice]:
    found = described(node)
    return (None, Choice(None, found)) if isinstance(found, str) else (found, choose(found))


def described(node: fx.Node) -> TopK | str:
    """Return what a call of `aten.topk` does as the kernels see it, or else why they can't do it."""
    value, given = _input(node).meta["val"], _arguments(node)
    if value.dim() == 0 or given["dim"] not in (-1, value.dim() - 1):
        return "it is not along the last dimension"
    if not isinstance(given["k"], int) or not isinstance(value.stride(-1), int):
        return f"its {'k' if isinstance(value.stride(-1), int) else 'distance between elements'} is dynamic"
    if not keeps_layouts():
        return LAYOUTS_MAY_CHANGE
    row_stride = _row_stride(value)
    if row_stride is None:
        return "its rows are not the same distance apart"
    rows = value.shape[0] if value.dim() == 2 else math.prod(value.shape[:-1])
    can_tell = SizeNodes(node.graph).can_tell
    if not all(map(can_tell, expressions([rows]))):
        return "the number of its rows depends on data"
    if not all(map(can_tell, expressions([value.shape[-1], row_stride]))):
        return "the length of its rows, or the distance between them, depends on data"
    bounds = _bounds(value.shape[-1])
    if isinstance(bounds, str):
        return bounds
    dynamic = DynamicLength(value.shape[-1], bounds[0]) if bounds[0] < bounds[1] else None
    return TopK(
        rows, bounds[1], given["k"], value.dtype, row_stride, value.stride(-1), given["largest"], dynamic, given["sorted"]
    )  # fmt: skip


def _bounds(length: int | torch.SymInt) -> tuple[int, int] | str:
    """Return the least and the greatest length that a row can have, or else why a form can't be chosen.

    They are what the calls of this graph are guarded by. Nothing is compared, so no guard is added.
    """
    if isinstance(length, int):
        return length, length
    env = length.node.shape_env
    assert env is not None  # a size that is symbolic has one
    found = env.bound_sympy(length.node.expr)
    if not isinstance(found.upper, sympy.Integer):
        return f"its rows have {found.lower} elements or more without a greatest length, and a form is for one; {_ADVICE}"
    return int(found.lower), int(found.upper)


def _input(node: fx.Node) -> fx.Node:
    found = node.args[0] if node.args else node.kwargs["self"]
    assert isinstance(found, fx.Node)
    return found


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a call of `aten.topk` but the first, by name, defaults included."""
    schema = node.target._schema.arguments[1:]  # type: ignore[union-attr]
    given = {argument.name: argument.default_value for argument in schema}
    given.update(zip([argument.name for argument in schema], node.args[1:], strict=False))
    return {**given, **{name: value for name, value in node.kwargs.items() if name != "self"}}


def _row_stride(value: torch.Tensor) -> int | torch.SymInt | None:
    """Return the distance between rows, of any number of dimensions, in elements; None if there are several distances."""
    if value.dim() == 2:
        return value.stride(0)
    # As expressions, because a comparison of dynamic sizes would be a guard.
    sizes = zip(expressions(value.shape[:-1]), expressions(value.stride()[:-1]), value.stride()[:-1], strict=True)
    outer = [each for each in sizes if each[0] != 1]
    if not outer:
        return value.shape[-1]
    for (_, stride, _), (size, inner, _) in itertools.pairwise(outer):
        if sympy.expand(stride - size * inner) != 0:
            return None
    return outer[-1][2]


def _replace(gm: fx.GraphModule, node: fx.Node, work: Program, us: float) -> None:
    """Replace a top-k by launches that take `us` us together, if that is known. Its results keep the shape of aten's."""
    shape, given = node.meta["val"][0].shape, _arguments(node)
    with gm.graph.inserting_before(node):
        operands = {"x": stored(gm.graph, _input(node))}
        made = launch_program(gm.graph, node, work, operands, kernel, us, {"values": shape, "indices": shape})
        results = [made[buffer.name] for buffer in work.buffers[:2]]
        if given["sorted"]:
            results = _in_order(gm.graph, node, results, given["largest"])
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)


def _in_order(graph: fx.Graph, node: fx.Node, results: list[fx.Node], largest: bool) -> list[fx.Node]:
    """Add what `graphstreams.kernels.top_k.in_order` does to the values and indices of a top-k `node`."""
    values, indices = results
    sort = noted(graph.call_function(_aten.sort.default, (values, -1, largest)), node, node.meta["val"])
    ordered, order = (
        noted(graph.call_function(operator.getitem, (sort, place)), node, value) for place, value in enumerate(sort.meta["val"])
    )
    return [ordered, noted(graph.call_function(_aten.gather.default, (indices, -1, order)), node, indices.meta["val"])]
