"""Store a value of which an operator reads a copy, as Inductor does before it makes the copy.

Inductor stores what it expects an operator to read from memory, if anything else reads it too, so that its arithmetic is done
once. It looks at the operators that read a value. Where a node of the graph stands for a copy, that node reads the value, and
the operator reads the copy. Read in torch 2.15.0: `_inductor/graph.py` (run_node), `_inductor/ir.py` (realize_hint),
`_inductor/lowering.py` (needs_realized_inputs).
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._inductor import ir
from torch._inductor.lowering import needs_realized_inputs

FOR_STORED = "graphstreams_for_stored"  # key in node.meta of a copy for an operator that reads its operands from memory


def note_operator(copy: fx.Node, operator: fx.Node) -> None:
    """Write into the metadata of a node that stands for a copy whether `operator` reads its operands from memory."""
    if operator.target in needs_realized_inputs:
        copy.meta[FOR_STORED] = True


def store_if_copied(node: fx.Node, value: Any) -> None:
    """Store the IR value of a node, unless it is cheap, if other nodes read it beside a copy for such an operator."""
    if isinstance(value, ir.TensorBox) and len(node.users) > 1 and any(FOR_STORED in user.meta for user in node.users):
        value.realize_hint()
