"""Write in the graph the addition of a convolution's bias, which Inductor makes of it.

Inductor lowers a biased convolution on a GPU to one without a bias and an addition, which is fused into what reads it. If no
node of the graph stands for the product, all that reads it would have to stay with it. Read in torch 2.15.0:
`_inductor/kernel/conv.py` (convolution).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor import config

aten = torch.ops.aten
BIAS = 2  # the position of the argument


def has_biases(gm: fx.GraphModule) -> bool:
    """Return whether `gm` has a convolution whose bias Inductor adds by itself."""
    return any(map(_is_peeled, _convolutions(gm)))


def peel_biases(gm: fx.GraphModule) -> None:
    """Replace in `gm` every convolution whose bias Inductor adds by itself."""
    for node in filter(_is_peeled, _convolutions(gm)):
        _peel(gm.graph, node)
    gm.recompile()


def _convolutions(gm: fx.GraphModule) -> list[fx.Node]:
    return list(gm.graph.find_nodes(op="call_function", target=aten.convolution.default))


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
