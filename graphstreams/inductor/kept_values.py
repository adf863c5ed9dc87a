"""Keep the IR value of each node of a graph that Inductor lowers, which it forgets after the node's last use.

An `fx.Interpreter`, which Inductor's lowering is, keeps all values if `garbage_collect_values` is off. It asks the graph's
`CodeGen` for its inputs before it runs the first node: there a lowering can be told. Read in torch 2.15.0: `fx/interpreter.py`
(run), `fx/graph.py` (CodeGen, process_inputs), `_inductor/graph.py` (run, run_node).
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._inductor import ir
from torch._inductor.graph import GraphLowering
from torch._inductor.lowering import maybe_layout_constraints
from torch._inductor.virtualized import V
from torch.fx.graph import CodeGen

from graphstreams.inductor.lowering import storage_name


class _KeepsValues(CodeGen):
    """The code generator of a plain graph, whose lowering it tells to keep values."""

    def process_inputs(self, *args: Any) -> Any:  # type: ignore[override]
        graph = V.graph
        if isinstance(graph, GraphLowering) and graph.graph._codegen is self:  # other interpreters run the graph, too
            graph.garbage_collect_values = False
        return super().process_inputs(*args)


def keep_values(graph: fx.Graph) -> None:
    """Let the next lowering of a graph keep its values. Does nothing to a graph with a code generator of its own."""
    if type(graph._codegen) is CodeGen:
        graph.set_codegen(_KeepsValues())


def take_values(lowered: GraphLowering) -> dict[fx.Node, Any]:
    """Return the values that a lowering has kept, after which neither has them any more; empty if it kept none."""
    if not isinstance(lowered.graph._codegen, _KeepsValues):
        return {}
    lowered.graph.set_codegen(CodeGen())
    values, lowered.env = lowered.env, {}
    return values if values.keys() >= set(lowered.graph.nodes) else {}


def shares_operands(graph: GraphLowering, values: dict[fx.Node, Any]) -> bool:
    """Return whether operators that ask for a layout share what they read with its other readers.

    So it is if it was stored before. Else Inductor may have made a copy of its own for the operator.
    """
    made: dict[str, int] = {}  # buffer -> the position of the operation that makes it
    first: dict[Any, int] = {}  # node -> the position of the first operation that is made for it
    for position, operation in enumerate(graph.operations):
        made.update(dict.fromkeys((output.get_name() for output in operation.get_outputs()), position))
        for origin in operation.get_origins():
            first.setdefault(origin, position)
    for node in graph.graph.nodes:
        if node.op != "call_function" or not maybe_layout_constraints(node.target):
            continue
        for shared in (each for each in node.all_input_nodes if len(each.users) > 1):
            if isinstance(values[shared], ir.TensorBox):
                name = storage_name(values[shared])
                if name is None or made.get(name, -1) >= first.get(node, len(graph.operations)):
                    return False
    return True
