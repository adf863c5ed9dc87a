"""Streams that another pass has placed in a graph, and the graph's serial code without them.

Read in torch 2.15.0: `_inductor/fx_passes/control_dependencies.py`, `torch/_dynamo/variables/streams.py`,
`_inductor/output_code.py` (CompiledFxGraph).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from graphstreams.errors import StreamsRemain
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.stream_ops import control_deps
from graphstreams.rewriting.agreement import disagreement

# What a lowered graph tells of its wrapper, by which Inductor aligns inputs and makes CUDA graphs of the wrapper's parts.
_OF_THE_TEXT = (
    "mutated_inputs", "mutated_input_idxs", "_defers_input_alignment",
    "partition_maps", "has_uncaptured_partition", "disable_cudagraphs_reason",
)  # fmt: skip


def placed_streams(module: fx.GraphModule) -> list[str]:
    """Return the names of the nodes that are on a stream, or record, wait for or order events."""
    return [node.name for node in module.graph.nodes if _stream(node) is not None or _is_operation(module, node)]


def without_streams(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of the graph, in the same order, with no node on a stream and no stream operation in it.

    Raises StreamsRemain if something reads the result of a stream operation.
    """
    copy = copy_graph(module)
    for node in list(copy.graph.nodes):
        if _stream(node) is not None:
            node.meta["custom"] = {key: value for key, value in node.meta["custom"].items() if key != "stream"}
        if _is_operation(copy, node):
            _take_out(copy, node)
    copy.graph.lint()
    copy.recompile()
    return copy


def serial_code(graph: Any, source: str) -> str:
    """Return the wrapper of a lowered graph without the streams in it, and make the lowered graph agree with it.

    `source` is the wrapper that Inductor generated. Raises StreamsRemain if the two differ in more than streams.
    """
    plain = lower(without_streams(graph.module), generate_code=True, inputs_to_check=getattr(graph, "inputs_to_check", None))
    before = {name: getattr(graph, name) for name in _OF_THE_TEXT if hasattr(graph, name)}
    for name in before:
        setattr(graph, name, getattr(plain.graph, name))
    if difference := disagreement(Lowered(graph, {}, source), plain, tuple(plain.graph.mutated_inputs)):
        for name, value in before.items():
            setattr(graph, name, value)
        raise StreamsRemain(difference)
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


def _stream(node: fx.Node) -> Any:
    return node.meta.get("custom", {}).get("stream")


def _is_operation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an operation of torch.ops.streams, by itself or as all that a `control_deps` holds."""
    if node.target is control_deps:
        subgraph = getattr(module, str(node.args[1].target), None)  # type: ignore[union-attr]
        calls = [n for n in subgraph.graph.nodes if n.op == "call_function"] if subgraph is not None else []
        return all(_in_namespace(n) for n in calls)
    return _in_namespace(node)


def _in_namespace(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "streams"
