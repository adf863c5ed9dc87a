"""Write in the graph the copies that Inductor makes of an operator's operands, to have them in the layout that it wants.

If no node of the graph stands for a copy, what makes it has to stay with all that reads it, and each reader has a copy of its
own. One kernel may make the copies for the attention of every layer, as that of an attention mask does in models of
transformers: all layers would be one unit. Read in torch 2.15.0: `_inductor/ir.py` (ExternKernel.realize_input,
require_stride_order), `_inductor/lowering.py` (inductor_force_stride_order, sdpa_constraint).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor import ir
from torch._inductor.fx_passes import post_grad
from torch.utils import _pytree as pytree

from graphstreams.inductor.lowering import Lowered, storage_name
from graphstreams.inductor.size_nodes import SizeNodes, expressions, value_of
from graphstreams.inductor.stored_operands import note_operator
from graphstreams.ir.alias_sets import AliasSets

FORCE = torch.ops.prims.inductor_force_stride_order.default
EXPAND = torch.ops.aten.expand.default


@dataclass(frozen=True)
class OperandCopy:
    """A copy of an operand, made for one operator."""

    operator: fx.Node
    operand: fx.Node
    copied: fx.Node  # the operand, or what it expands: not every size that is repeated is copied
    sizes: tuple[sympy.Expr, ...]
    strides: tuple[sympy.Expr, ...]


def copies_to_store(lowered: Lowered, storages: AliasSets) -> list[OperandCopy]:
    """Return the copies of operators' operands that Inductor makes in another layout, and that can have nodes of their own.

    `storages` tells which buffers of the lowered graph share memory.
    """
    outputs = [output for node in lowered.nodes for output in node.get_outputs()]
    changed = {storages.storage(name) for output in outputs for name in output.get_mutations()}

    def stays(copied: fx.Node) -> bool:
        # A copy is made where the value is, and what is written later than there may be read by the operator.
        stored = storage_name(lowered.values[copied])
        return stored is None or storages.storage(stored) not in changed

    return [copy for copy in _copies(lowered) if stays(copy.copied)]


def store_copies(gm: fx.GraphModule, copies: Iterable[OperandCopy]) -> None:
    """Give each copy a node of its own in `gm`. Operators that want the same layout of a value share its copy."""
    made: dict[tuple[Any, ...], fx.Node] = {}
    numbers = SizeNodes(gm.graph)
    for copy in copies:
        key = copy.copied, copy.sizes, copy.strides
        if key not in made:
            made[key] = _stored(copy, numbers)
        note_operator(made[key], copy.operator)
        sizes = expressions(copy.operand.meta["val"].shape)
        copy.operator.replace_input_with(copy.operand, _expanded(made[key], sizes, copy.operand, numbers))
    if made:
        post_grad.stable_topological_sort(gm.graph)
        gm.recompile()


def _stored(copy: OperandCopy, numbers: SizeNodes) -> fx.Node:
    """Return a new node that stands for a copy.

    It is before the operator, where Inductor makes the copy: what reads the value earlier may decide the value's own layout.
    """
    origin = copy.copied if copy.copied.op == "call_function" else copy.operator
    source = _expanded(copy.copied, copy.sizes, origin, numbers)
    sizes, strides = map(numbers.node, copy.sizes), [numbers.node(stride) for stride in copy.strides]
    with copy.operator.graph.inserting_before(copy.operator):
        node = copy.operator.graph.call_function(FORCE, (source, strides))
    value = source.meta["val"].as_strided(list(map(value_of, sizes)), list(map(value_of, strides)))
    node.meta = {**origin.meta, "val": value}
    return node


def _expanded(node: fx.Node, sizes: tuple[sympy.Expr, ...], origin: fx.Node, numbers: SizeNodes) -> fx.Node:
    """Return a node of these sizes, which repeats those of `node` that are one; `node` itself if there is nothing to repeat."""
    value = node.meta["val"]
    if expressions(value.shape) == sizes:
        return node
    given = list(map(numbers.node, sizes))
    with node.graph.inserting_after(node):
        expanded = node.graph.call_function(EXPAND, (node, given))
    expanded.meta = {**origin.meta, "val": value.expand(list(map(value_of, given)))}
    return expanded


def _copies(lowered: Lowered) -> Iterator[OperandCopy]:
    """Yield the copies of operands that are read in one layout by their operator."""
    module: Any = lowered.graph.module
    numbers = SizeNodes(module.graph)
    for kernel in lowered.graph.operations:
        node = _operator(kernel)
        if node is None or not isinstance(kernel, ir.ExternKernel):
            continue
        operands = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
        buffers: list[Any] = list(kernel.inputs)
        if len(operands) != len(buffers) or any(not isinstance(n.meta.get("val"), torch.Tensor) for n in operands):
            continue
        found: dict[fx.Node, set[OperandCopy | None]] = {}
        for operand, buffer in zip(operands, buffers, strict=True):
            found.setdefault(operand, set()).add(_copy(node, operand, buffer, lowered, numbers))
        yield from (copy for own in found.values() for copy in own if copy is not None and len(own) == 1)


def _copy(
    operator: fx.Node, operand: fx.Node, buffer: Any, lowered: Lowered, numbers: SizeNodes
) -> OperandCopy | None:  # fmt: skip
    """Return the copy that an operator reads in place of an operand; None if it reads the value, or the copy can't be told."""
    copied = operand
    if isinstance(buffer, ir.ReinterpretView) and operand.target is EXPAND:
        copied, buffer = operand.args[0], buffer.data  # type: ignore[assignment]
        buffer = buffer.data if isinstance(buffer, ir.StorageBox) else buffer
    if not isinstance(buffer, ir.ComputedBuffer) or storage_name(lowered.values[copied]) == buffer.get_name():
        return None
    layout: Any = buffer.layout
    sizes, strides = tuple(map(sympy.sympify, layout.size)), _without_gaps(layout.size, layout.stride, lowered)
    own, repeated = expressions(operand.meta["val"].shape), expressions(copied.meta["val"].shape)
    # Of a convolution's input without a batch Inductor copies a view, which has other dimensions.
    if not strides or not _repeats(repeated, sizes) or not (sizes == own or copied is not operand):
        return None
    if not all(map(numbers.can_tell, (*sizes, *strides, *own))):
        return None
    return OperandCopy(operator, operand, copied, sizes, strides)


def _repeats(own: tuple[sympy.Expr, ...], sizes: tuple[sympy.Expr, ...]) -> bool:
    """Return whether `sizes` are those of a value, but for some that are one there."""
    return len(own) == len(sizes) and all(a in (1, b) for a, b in zip(own, sizes, strict=True))


def _operator(kernel: Any) -> fx.Node | None:
    """Return the node that a library's kernel stands for, if it is one that takes the node's operands in their order."""
    if isinstance(kernel, ir.UserDefinedTritonKernel):
        return None
    origins = [n for n in kernel.get_origins() if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]
    target = getattr(kernel, "op_overload", None)
    named = [n for n in origins if n.target is target]
    found = named or [n for n in origins if n.target is torch.ops.aten.convolution.default]
    # What writes its operand would write the copy that others read.
    return found[0] if len(found) == 1 and not found[0].target._schema.is_mutable else None  # type: ignore[union-attr]


def _without_gaps(size: Sequence[Any], stride: Sequence[Any], lowered: Lowered) -> tuple[sympy.Expr, ...]:
    """Return the strides of a tensor that has no gaps, those of sizes of one as in its row-major order; empty for others.

    It is empty too if a dynamic size may be one: then no order of strides is known. No guard is added.
    """
    known = lowered.graph.sizevars
    strides, sizes = list(map(sympy.sympify, stride)), list(map(sympy.sympify, size))
    example = [known.optimization_hint(each, fallback=8192) for each in strides]
    step = sympy.S.One
    for place in sorted(range(len(sizes)), key=lambda place: (example[place] if sizes[place] != 1 else 0, -place)):
        if sizes[place] == 1:
            continue
        if not known.statically_known_gt(sizes[place], 1) or not known.statically_known_equals(strides[place], step):
            return ()
        step *= sizes[place]
    for place in reversed(range(len(sizes))):
        if sizes[place] == 1:
            behind = (strides[other] * sizes[other] for other in range(place + 1, len(sizes)))
            strides[place] = max(behind, default=sympy.S.One, key=lambda each: known.optimization_hint(each, fallback=8192))
    return tuple(strides)
