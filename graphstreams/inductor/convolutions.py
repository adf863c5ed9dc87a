"""Write in the graph what Inductor makes of a convolution: the addition of its bias, and the copies in another layout.

Inductor lowers a biased convolution on a GPU to one without a bias and an addition, which is fused into what reads it, and it
copies inputs and weights that are not in the layout that it wants. If no node of the graph stands for the product, or for a
copy, all that reads it would have to stay with it. Read in torch 2.15.0: `_inductor/kernel/conv.py` (convolution),
`_inductor/ir.py` (require_stride_order).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import sympy
import torch
from torch import fx
from torch._inductor import config, ir
from torch._inductor.fx_passes import post_grad

from graphstreams.inductor.lowering import Lowered, storage_name

aten, prims = torch.ops.aten, torch.ops.prims
CONVOLUTION = "extern_kernels.convolution"
BIAS = 2  # the position of the argument


def peel_biases(gm: fx.GraphModule) -> None:
    """Replace in `gm` every convolution whose bias Inductor adds by itself."""
    for node in gm.graph.find_nodes(op="call_function", target=aten.convolution.default):
        if _is_peeled(node):
            _peel(gm.graph, node)
    gm.recompile()


def _is_peeled(node: fx.Node) -> bool:
    bias, value = node.args[BIAS], node.meta.get("val")
    if not isinstance(bias, fx.Node) or not isinstance(value, torch.Tensor) or value.device.type != "cuda":
        return False
    weight = node.args[1].meta["val"]  # type: ignore[union-attr]
    # Without a batch, or without channels, Inductor takes another way.
    if value.dim() != weight.dim() or weight.shape[0] == 0:
        return False
    by_products = config.conv_1x1_as_mm or config.max_autotune or config.max_autotune_gemm
    return not (by_products and all(size == 1 for size in weight.shape[2:]))


def _peel(graph: fx.Graph, node: fx.Node) -> None:
    product, bias = node.meta["val"], node.args[BIAS]
    shape = [product.shape[1], *[1] * (product.dim() - 2)]
    with graph.inserting_after(node):
        view = graph.call_function(aten.view.default, (bias, shape))
    with graph.inserting_after(view):
        total = graph.call_function(aten.add.Tensor, (node, view))
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    arguments: list[Any] = list(node.args)
    arguments[BIAS] = None
    node.args = tuple(arguments)
    for new, value in ((view, bias.meta["val"].view(shape)), (total, product)):  # type: ignore[union-attr]
        new.meta = {**node.meta, "val": value}


def store_converted(gm: fx.GraphModule, lowered: Lowered) -> bool:
    """Give each copy of a convolution's input or weight that Inductor makes in another layout a node of its own in `gm`.

    `lowered` is `gm`, lowered. Convolutions that share an input share its copy. Return whether the graph has changed.
    """
    made: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
    for kernel in lowered.graph.operations:
        node = next((n for n in kernel.get_origins() if n.target is aten.convolution.default), None)
        if not isinstance(kernel, ir.ExternKernel) or node is None or kernel.python_kernel_name != CONVOLUTION:
            continue
        for position, operand in enumerate(cast("Sequence[Any]", kernel.inputs[:2])):
            source = node.args[position]
            strides = _fixed_strides(operand)
            if not isinstance(source, fx.Node) or not strides or storage_name(lowered.values[source]) == operand.get_name():
                continue
            value = source.meta["val"]
            if len(strides) != value.dim():
                continue  # of an input without a batch Inductor copies a view
            if (source, strides) not in made:
                with gm.graph.inserting_after(source):
                    made[source, strides] = gm.graph.call_function(prims.inductor_force_stride_order.default, (source, strides))
                made[source, strides].meta = {**node.meta, "val": value.as_strided(value.shape, strides)}
            node.update_arg(position, made[source, strides])
    if made:
        post_grad.stable_topological_sort(gm.graph)
        gm.recompile()
    return bool(made)


def _fixed_strides(buffer: Any) -> tuple[int, ...]:
    """Return the strides of a computed buffer if they are numbers; empty otherwise."""
    layout = getattr(buffer, "layout", None)
    if not isinstance(buffer, ir.ComputedBuffer) or layout is None:
        return ()
    return tuple(int(s) for s in layout.stride) if all(isinstance(s, int | sympy.Integer) for s in layout.stride) else ()
