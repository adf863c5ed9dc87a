"""Find the streams that another pass has placed in a graph, and generate the graph's serial code without them.

Read in torch 2.15.0: `_inductor/fx_passes/control_dependencies.py`, `torch/_dynamo/variables/streams.py`,
`_inductor/output_code.py` (CompiledFxGraph).
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from graphstreams.errors import StreamsRemain
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.stream_ops import control_deps, is_stream_operation, set_stream, stream_of
from graphstreams.rewriting.agreement import disagreement

# The attributes of a lowered graph from which Inductor aligns a wrapper's inputs and makes CUDA graphs of its parts.
_OF_THE_TEXT = (
    "mutated_inputs", "mutated_input_idxs", "_defers_input_alignment",
    "partition_maps", "has_uncaptured_partition", "disable_cudagraphs_reason",
)  # fmt: skip


def placed_streams(module: fx.GraphModule) -> list[str]:
    """Return the names of the nodes that are placed on a stream, or that record, wait for or order events."""
    return [node.name for node in module.graph.nodes if stream_of(node) is not None or _is_operation(module, node)]


def without_streams(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of the graph, in the same order, with no node on a stream and no stream operation in it.

    Raises StreamsRemain if something reads the result of a stream operation.
    """
    copy = copy_graph(module)
    for node in list(copy.graph.nodes):
        set_stream(node, 0)
        if _is_operation(copy, node):
            _take_out(copy, node)
    copy.graph.lint()
    copy.recompile()
    return copy


def serial_code(graph: Any, source: str) -> str:
    """Return the wrapper of a lowered graph without the streams in it, and set the lowered graph's attributes to match.

    `source` is the wrapper that Inductor generated. Raises StreamsRemain if the two wrappers differ in more than streams.
    """
    plain = lower(without_streams(graph.module), generate_code=True, inputs_to_check=getattr(graph, "inputs_to_check", None))
    if difference := disagreement(Lowered(graph, {}, source), plain, tuple(graph.mutated_inputs)):
        raise StreamsRemain(difference)
    for name in _OF_THE_TEXT:
        if hasattr(graph, name):
            setattr(graph, name, getattr(plain.graph, name))
    return plain.source


def _take_out(module: fx.GraphModule, node: fx.Node) -> None:
    values = node.args[2:] if node.target is control_deps else ()
    for user in list(node.users):
        if user.target is operator.getitem and isinstance(user.args[1], int) and user.args[1] < len(values):
            user.replace_all_uses_with(values[user.args[1]])  # type: ignore[arg-type]
            module.graph.erase_node(user)
        elif user.target is control_deps and node in user.args[0]:  # type: ignore[operator]
            user.args = (tuple(n for n in user.args[0] if n is not node), *user.args[1:])  # type: ignore[union-attr]
    if node.users:
        raise StreamsRemain(f"{next(iter(node.users)).name} reads the result of {node.name}")
    module.graph.erase_node(node)


def _is_operation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is an operation of torch.ops.streams, or a `control_deps` that holds only such operations."""
    if node.target is control_deps:
        subgraph = getattr(module, str(node.args[1].target), None)  # type: ignore[union-attr]
        calls = [n for n in subgraph.graph.nodes if n.op == "call_function"] if subgraph is not None else []
        return all(map(is_stream_operation, calls))
    return is_stream_operation(node)
