"""Replace top-k in a post-grad graph by launches of this package's kernels."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from graphstreams.inductor.lowering import copy_graph
from graphstreams.inductor.own_kernels import LAYOUTS_MAY_CHANGE, add_notes, keeps_layouts, launch_program, stored
from graphstreams.inductor.size_nodes import SizeNodes, expressions
from graphstreams.kernels.launches import Program
from graphstreams.kernels.top_k import Choice, TopK, kernel, program
from graphstreams.messages import with_type

log = logging.getLogger("graphstreams")

_aten = torch.ops.aten
Choose = Callable[[TopK], Choice]


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
    if given["sorted"]:
        return "its result is sorted, and the kernels' is not; pass sorted=False if the order does not matter"
    if value.dim() == 0 or given["dim"] not in (-1, value.dim() - 1):
        return "it is not along the last dimension"
    fixed = value.shape[1:] if value.dim() == 2 else value.shape  # a dynamic number of rows is given to no kernel
    if not all(isinstance(size, int) for size in (*fixed, *value.stride(), given["k"])):
        return "sizes other than a matrix's number of rows are dynamic, and a form is chosen for one length"
    if not all(map(SizeNodes(node.graph).can_tell, expressions(value.shape[:1]))):
        return "the number of its rows depends on data"
    if not keeps_layouts():
        return LAYOUTS_MAY_CHANGE
    row_stride = _row_stride(value)
    if row_stride is None:
        return "its rows are not the same distance apart"
    rows = value.shape[0] if value.dim() == 2 else math.prod(value.shape[:-1])
    return TopK(rows, value.shape[-1], given["k"], value.dtype, row_stride, value.stride(-1), given["largest"])


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


def _row_stride(value: torch.Tensor) -> int | None:
    """Return the distance between rows, of any number of dimensions, in elements; None if there are several distances."""
    if value.dim() == 2:
        return value.stride(0)
    outer = [(size, stride) for size, stride in zip(value.shape[:-1], value.stride()[:-1], strict=True) if size != 1]
    if not outer:
        return value.shape[-1]
    for (_, stride), (size, inner) in itertools.pairwise(outer):
        if stride != size * inner:
            return None
    return outer[-1][1]


def _replace(gm: fx.GraphModule, node: fx.Node, work: Program, us: float) -> None:
    """Replace a top-k by launches that take `us` us together, if that is known. Its results keep the shape of aten's."""
    shape = node.meta["val"][0].shape
    with gm.graph.inserting_before(node):
        operands = {"x": stored(gm.graph, _input(node))}
        made = launch_program(gm.graph, node, work, operands, kernel, us, {"values": shape, "indices": shape})
    results = [made[buffer.name] for buffer in work.buffers[:2]]
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)
