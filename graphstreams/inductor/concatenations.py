"""Find the concatenations whose pieces may be written side by side, by kernels of their own.

Inductor gives the pieces of a concatenation no memory of their own: each is a slice of the concatenation's buffer. Read in
torch 2.15.0: `_inductor/ir.py` (ConcatKernel, NonOwningLayout), `_inductor/codegen/wrapper.py` (codegen_allocation).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import sympy
from torch._inductor import config, ir

from graphstreams.inductor.lowering import Lowered
from graphstreams.verification.elements import Elements, disjoint
from graphstreams.verification.wrapper.sizes_told import PRODUCTS


def pieces_of(node: Any) -> dict[str, Elements | None]:
    """Return the buffers that are pieces of a concatenation, and which of its elements each is; empty for other nodes.

    None stands for elements that depend on dynamic sizes.
    """
    if not isinstance(node.node, ir.ConcatKernel):
        return {}
    inputs: Any = node.node.inputs
    pieces = [piece for piece in inputs if isinstance(piece.layout, ir.NonOwningLayout)]
    return {piece.get_name(): _elements(piece.layout) for piece in pieces}


def _elements(layout: Any) -> Elements | None:
    view = layout.view.get_layout()
    numbers = [*view.size, *view.stride, view.offset]
    if not all(isinstance(number, int | sympy.Integer) for number in numbers):
        return None
    *steps, offset = map(int, numbers)
    return Elements(str(view.dtype), tuple(steps[: len(view.size)]), tuple(steps[len(view.size) :]), offset)


def divided(lowered: Lowered) -> dict[int, frozenset[str]]:
    """Return, for each concatenation by its position, those pieces that products write, if the wrapper's text can prove it.

    A product has to be among the pieces. The proof needs pieces without a common element, and the sizes of the
    factors, which are those of views, of buffers that the wrapper allocates, or of inputs that it asserts.
    """
    found = {}
    for position, node in enumerate(lowered.nodes):
        pieces = pieces_of(node)
        parts = list(pieces.values())
        if not config.size_asserts or len(parts) < 2 or None in parts:
            continue
        products = frozenset(name for name in pieces if _writes_product(lowered, name))
        apart = all(disjoint(*pair) for pair in itertools.combinations(parts, 2))  # type: ignore[arg-type]
        if apart and products:
            found[position] = products
    return found


def _writes_product(lowered: Lowered, name: str) -> bool:
    kernel = lowered.graph.get_buffer(name)
    if type(kernel) is not ir.ExternKernelOut:
        return False
    library, _, operator = str(kernel.python_kernel_name).rpartition(".")
    if library != "extern_kernels" or operator not in PRODUCTS:
        return False
    factors = kernel.inputs[PRODUCTS[operator] : PRODUCTS[operator] + 2]
    return all(_tells_sizes(lowered, factor) for factor in factors)


def _tells_sizes(lowered: Lowered, factor: Any) -> bool:
    layout = factor.get_layout()
    if not all(isinstance(size, int | sympy.Integer) for size in layout.size):
        return False
    if isinstance(factor, ir.ReinterpretView):
        return True
    buffer: Any = lowered.graph.try_get_buffer(factor.get_name())
    return factor.get_name() in lowered.graph.graph_inputs or (buffer is not None and buffer.should_allocate())


def on_several_streams(scheduler: Any) -> set[str]:
    """Return the buffers of the concatenations whose pieces are written on several streams."""
    found: set[str] = set()
    for node in scheduler.nodes:
        writers = [scheduler.name_to_buf[name].defining_op for name in pieces_of(node)]
        if len({scheduler.get_node_stream(writer) for writer in writers}) > 1:
            found.update(node.get_buffer_names())
    return found


def far_apart(lowered: Lowered) -> set[str]:
    """Return the buffers of concatenations between whose pieces other kernels run, if they may as well be computed elementwise.

    Together the kernels that write the pieces would be one unit with all that runs between. So it is with what a U-Net keeps
    of an image on its way down: each level's kernel writes its piece of what is read on the way up. Computed elementwise, the
    concatenation takes the place of the kernel that writes the last piece.
    """
    found: set[str] = set()
    for node in lowered.nodes:
        pieces = [lowered.graph.get_buffer(name) for name in pieces_of(node)]
        generated = all(isinstance(piece, ir.ComputedBuffer) and isinstance(piece.data, ir.Pointwise) for piece in pieces)
        if 1 < len(pieces) <= config.max_pointwise_cat_inputs and generated and _anything_between(lowered, pieces):
            found.update(node.get_buffer_names())
    return found


def _anything_between(lowered: Lowered, pieces: Sequence[Any]) -> bool:
    """Return whether a kernel depends on what writes one of the pieces, and what writes another one on that kernel."""
    fused = lowered.graph.scheduler.name_to_fused_node
    writers = [fused[piece.get_operation_name()] for piece in pieces]
    made = {name for writer in writers for name in writer.get_operation_names()}
    between = {name for writer in writers for name in writer.ancestors if name not in made}
    return any(not made.isdisjoint(fused[name].ancestors) for name in between)
