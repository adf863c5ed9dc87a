"""Read a graph from the lowering that Inductor has made of it for its serial code, which has all but the nodes' values.

To lower a graph a second time to its last fused kernel takes as long as Inductor took. The values of its nodes may have been
kept (`kept_values.py`), and a lowering that this package has made has them; they are those of streams if nothing in it was
copied for one operator. Else they take a quarter of that: the graph is lowered once more, up to the buffers, and nothing is
scheduled. Both have the same buffers if they have the same operations of the same nodes, in one order, under the same names.
Read in torch 2.15.0: `_inductor/graph.py` (run, register_operation), `_inductor/scheduler.py` (Scheduler._init).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch._inductor.graph import GraphLowering

from graphstreams.inductor.foreach import is_foreach
from graphstreams.inductor.kept_values import shares_operands
from graphstreams.inductor.lowering import Lowered, lower_to_buffers
from graphstreams.inductor.settings import settings_off


def with_values(serial: Lowered) -> Lowered | None:
    """Return the serial lowering with the value of each node; None if on streams Inductor would have other kernels.

    So it is with settings that are off there, with foreach kernels and templates, and if an operator has a copy to itself of
    what on streams is stored once.
    """
    with serial.active():
        if settings_off() or any(is_foreach(node) or node.is_template() for node in serial.nodes):
            return None
        if serial.values and (serial.stores_shared or shares_operands(serial.graph, serial.values)):
            return serial
    found = lower_to_buffers(serial.graph.module)  # type: ignore[arg-type]
    if _operations(found) != _operations(serial.graph):
        return None
    return replace(serial, values=found.recorded)


def _operations(graph: GraphLowering) -> list[Any]:
    """Return what tells the operations of two lowerings of one graph apart."""
    return [
        (
            type(operation),
            operation.get_operation_name(),
            frozenset(operation.get_origins()),
            [(output.get_name(), output.maybe_get_dtype(), _size(output)) for output in operation.get_outputs()],
        )
        for operation in graph.operations
    ]


def _size(output: Any) -> list[Any] | None:
    return list(output.get_size()) if output.has_tensor_output() else None
