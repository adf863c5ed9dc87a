"""Write in the graph the copies that Inductor makes of an operator's operands, to have them in the layout that it wants.

If no node of the graph stands for a copy, what makes it has to stay with all that reads it, and each reader has a copy of its
own. Read in torch 2.15.0: `_inductor/ir.py` (ExternKernel.realize_input, require_stride_order), `_inductor/lowering.py`
(inductor_force_stride_order).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor import ir
from torch._inductor.fx_passes import post_grad
from torch.utils import _pytree as pytree

from graphstreams.inductor.lowering import Lowered, storage_name
from graphstreams.ir.alias_sets import AliasSets

FORCE = torch.ops.prims.inductor_force_stride_order.default


def store_copies(gm: fx.GraphModule, lowered: Lowered, storages: AliasSets) -> bool:
    """Give each copy of an operator's operand that Inductor makes in another layout a node of its own in `gm`.

    `lowered` is `gm`, lowered, and `storages` tells which of its buffers share memory. Operators that want the same layout of a
    value share its copy. Return whether the graph has changed.
    """
    outputs = [output for node in lowered.nodes for output in node.get_outputs()]
    changed = {storages.storage(name) for output in outputs for name in output.get_mutations()}
    made: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
    for node, source, strides in _copies(lowered):
        # A copy is made where the value is, and what is written later than there may be read by the operator.
        stored = storage_name(lowered.values[source])
        if stored is not None and storages.storage(stored) in changed:
            continue
        if (source, strides) not in made:
            value = source.meta["val"]
            with gm.graph.inserting_after(source):
                made[source, strides] = gm.graph.call_function(FORCE, (source, strides))
            origin = source if source.op == "call_function" else node
            made[source, strides].meta = {**origin.meta, "val": value.as_strided(value.shape, strides)}
        node.replace_input_with(source, made[source, strides])
    if made:
        post_grad.stable_topological_sort(gm.graph)
        gm.recompile()
    return bool(made)


def _copies(lowered: Lowered) -> Iterator[tuple[fx.Node, fx.Node, tuple[int, ...]]]:
    """Yield each operator with an operand that is copied for it, and the strides of the copy."""
    for kernel in lowered.graph.operations:
        node = _operator(kernel)
        if node is None or not isinstance(kernel, ir.ExternKernel):
            continue
        sources = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
        operands: list[Any] = list(kernel.inputs)
        if len(sources) != len(operands) or any(not isinstance(n.meta.get("val"), torch.Tensor) for n in sources):
            continue
        wanted: dict[fx.Node, set[tuple[int, ...]]] = {}
        for source, operand in zip(sources, operands, strict=True):
            copied = isinstance(operand, ir.ComputedBuffer) and storage_name(lowered.values[source]) != operand.get_name()
            wanted.setdefault(source, set()).add(_dense_strides(operand, source.meta["val"]) if copied else ())
        yield from ((node, source, strides) for source, own in wanted.items() for strides in own if strides and len(own) == 1)


def _operator(kernel: Any) -> fx.Node | None:
    """Return the node that a library's kernel stands for, if it is one that takes the node's operands in their order."""
    if isinstance(kernel, ir.UserDefinedTritonKernel):
        return None
    origins = [n for n in kernel.get_origins() if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]
    target = getattr(kernel, "op_overload", None)
    named = [n for n in origins if n.target is target]
    found = named or [n for n in origins if n.target is torch.ops.aten.convolution.default]
    return found[0] if len(found) == 1 else None


def _dense_strides(buffer: Any, value: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of a computed buffer of the value's shape if they are numbers and leave no gap; empty otherwise."""
    stride, size = buffer.layout.stride, buffer.layout.size
    if not all(isinstance(s, int | sympy.Integer) for s in (*stride, *size)):
        return ()
    strides, sizes = tuple(map(int, stride)), tuple(map(int, size))
    if sizes != tuple(value.shape):
        return ()  # of a convolution's input without a batch Inductor copies a view
    step = 1
    for own, count in sorted(zip(strides, sizes, strict=True)):
        if count > 1 and own != step:
            return ()
        step *= count
    return strides
