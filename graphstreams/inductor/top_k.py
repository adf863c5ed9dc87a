"""Replace top-k in a post-grad graph by launches of Triton kernels, as if the model's author had written them.

Inductor then generates plain launches for them, which are read, planned and proved like those of any kernel of a user's.
Read in torch 2.15.0: `_higher_order_ops/triton_kernel_wrap.py`, `_inductor/graph.py` (run_node, for layouts),
`_inductor/ir.py` (UserDefinedTritonKernel), `_inductor/fx_passes/reinplace.py`.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor import config

from graphstreams.inductor.lowering import copy_graph
from graphstreams.inductor.scheduler_nodes import KNOWN_US
from graphstreams.inductor.size_nodes import SizeNodes, expressions
from graphstreams.kernels.launches import Buffer, Launch, Program
from graphstreams.kernels.top_k import Choice, TopK, kernel, program
from graphstreams.messages import with_type

log = logging.getLogger("graphstreams")

_aten = torch.ops.aten
_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "from_node", "seq_nr")


DIMENSIONS = 3  # of a grid as the launcher that Inductor generates takes it; Dynamo fills up a user's
NOTES = "graphstreams_top_k"  # key in the meta of a GraphModule; its value are notes on what became of each top-k

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
    if notes:
        gm.meta[NOTES] = tuple(notes)
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
    if config.triton_kernel_default_layout_constraint != "needs_fixed_stride_order":  # type: ignore[attr-defined]
        return "Inductor's setting triton_kernel_default_layout_constraint lets kernels have inputs of other strides"
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
    """Replace a top-k by launches that take `us` us together, if that is known."""
    shape, sizes = node.meta["val"][0].shape, SizeNodes(gm.graph)
    with gm.graph.inserting_before(node):
        x = _stored(gm.graph, node)
        made = {each.name: _empty(gm.graph, node, each, shape, sizes) for each in work.buffers}
        for launch in work.launches:
            function = _kernel(launch.kernel, launch.warps, us / len(work.launches))
            made.update(_launch(gm.graph, node, launch, function, {**made, "x": x}, sizes))
    results = [made[buffer.name] for buffer in work.buffers[:2]]
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)


def _stored(graph: fx.Graph, top_k: fx.Node) -> fx.Node:
    """Add a node that stands for the input in memory: else each launch has what computes it stored once more for itself."""
    x = _input(top_k)
    value = x.meta["val"]
    node = graph.call_function(torch.ops.prims.inductor_force_stride_order.default, (x, list(value.stride())))
    node.meta = {**x.meta, "val": value}
    return node


def _empty(
    graph: fx.Graph, top_k: fx.Node, buffer: Buffer, result_shape: Sequence[int | torch.SymInt], sizes: SizeNodes
) -> fx.Node:  # fmt: skip
    """Add a buffer's allocation. The two results have the shape that aten gives them, the others their own."""
    like = _input(top_k).meta["val"]
    shape = list(result_shape) if buffer.name in ("values", "indices") else list(buffer.shape)
    value = like.new_empty(shape, dtype=buffer.dtype)
    options = {"dtype": buffer.dtype, "layout": torch.strided, "device": like.device, "pin_memory": False}
    given = _as_nodes(shape, sizes), list(value.stride())
    return _noted(graph.call_function(_aten.empty_strided.default, given, options), top_k, value)


def _as_nodes(numbers: Sequence[int | torch.SymInt], sizes: SizeNodes) -> list[Any]:
    """Return numbers as a graph has them: dynamic ones as nodes."""
    return [sizes.node(each) for each in expressions(numbers)]


def _launch(
    graph: fx.Graph, top_k: fx.Node, launch: Launch, function: Any, buffers: Mapping[str, fx.Node], sizes: SizeNodes
) -> dict[str, fx.Node]:  # fmt: skip
    """Add a launch of `function`, and return the buffers that it writes as they are after it."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    written = [name for name in launch.tensors if name in launch.writes]
    arguments = {**{name: buffers[name] for name in launch.tensors}, **launch.numbers, **launch.constants}
    grid = (*launch.grid, 1, 1)[:DIMENSIONS]
    given: dict[str, Any] = {
        "kernel_idx": kernel_side_table.add_kernel(function),
        "constant_args_idx": kernel_side_table.add_constant_args({}),
        "grid": [tuple(_as_nodes(grid, sizes))],
        "tma_descriptor_metadata": {},
        "kwargs": arguments,
        "tensors_to_clone": written,
    }
    after = {name: buffers[name].meta["val"].clone() for name in written}
    call = graph.call_function(torch.ops.higher_order.triton_kernel_wrapper_functional, (), given)
    _noted(call, top_k, after)
    values = {name: each.meta["val"] if isinstance(each, fx.Node) else each for name, each in arguments.items()}
    # By these Inductor gives the kernel its inputs with the very strides that are among its numbers.
    call.meta["eager_input_vals"] = ((), {**given, "grid": [grid], "kwargs": values})
    return {name: _noted(graph.call_function(operator.getitem, (call, name)), top_k, after[name]) for name in written}


def _noted(node: fx.Node, top_k: fx.Node, value: Any) -> fx.Node:
    node.meta.update({key: top_k.meta[key] for key in _KEPT_META if key in top_k.meta})
    node.meta["val"] = value
    return node


@functools.cache
def _kernel(name: str, warps: int, us: float) -> Any:
    """Return a kernel that is launched with so many warps, which the graph's operator for kernels can't be told otherwise.

    `us` is what it was measured to take, 0 if that is not known.
    """
    import triton

    tuned = triton.autotune(configs=[triton.Config({}, num_warps=warps)], key=[])(kernel(name))
    setattr(tuned, KNOWN_US, us)
    return tuned
