"""Append stream operations to an FX graph: each record, wait and lifetime in a `control_deps` of its own.

`control_deps(dependencies, subgraph, *values)` makes Inductor run the subgraph after its dependencies. No subgraph returns a
value, because Inductor would take that for a mutation of the value. What comes after a wait is kept there by `scheduling`. Read
in torch 2.15.0: `_inductor/fx_passes/control_dependencies.py`, `_inductor/lowering.py` (control_deps_op_lowering),
`fx/_lazy_graph_module.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor.fx_passes.control_dependencies import control_deps
from torch.fx._lazy_graph_module import _LazyGraphModule

from graphstreams.inductor.stored_strides import STORE

RECORD, WAIT = torch.ops.streams.record_event.default, torch.ops.streams.wait_event.default  # of an event and a stream


def is_stream_operation(node: fx.Node) -> bool:
    """Return whether a node calls an operator of `torch.ops.streams`."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "streams"


def stream_of(node: fx.Node) -> Any:
    """Return the stream that a node is annotated with; None if it has no annotation."""
    return node.meta.get("custom", {}).get("stream")


def set_stream(node: fx.Node, stream: int) -> None:
    """Annotate a node with its stream. Nodes of the caller's stream, 0, have no annotation."""
    custom = {key: value for key, value in node.meta.get("custom", {}).items() if key != "stream"}
    if stream:
        custom["stream"] = stream
    if custom or "custom" in node.meta:
        node.meta["custom"] = custom


def ordered(
    module: fx.GraphModule, operation: torch._ops.OpOverload, event: int, stream: int, dependencies: Sequence[fx.Node]
) -> fx.Node:
    """Append RECORD or WAIT of an event, which runs on `stream` after `dependencies`, one or more, and return its node."""
    inner = fx.Graph()
    call = inner.call_function(operation, (event, stream))
    inner.output(call)
    node = _append(module, f"{operation._opname}_{event}", inner, dependencies, [])
    for each in (call, node):
        set_stream(each, stream)
    return node


def empty_module(root: fx.GraphModule) -> fx.GraphModule:
    """Return a module with an empty graph, whose code is written if somebody asks for it."""
    return _LazyGraphModule(root, fx.Graph())


def events_of(module: fx.GraphModule) -> dict[str, tuple[int, int | None]]:
    """Return the nodes that `ordered` has appended, by name: the event, and the stream that waits, or None for a record."""
    found: dict[str, tuple[int, int | None]] = {}
    for node in module.graph.find_nodes(op="call_function", target=control_deps):
        inner = getattr(module, str(node.args[1].target)).graph
        for operation in (RECORD, WAIT):
            for call in inner.find_nodes(op="call_function", target=operation):
                event, stream = call.args
                found[node.name] = event, stream if operation is WAIT else None
    return found


def extend_lifetimes(
    module: fx.GraphModule, event: int, stream: int, dependencies: Sequence[fx.Node], values: Sequence[fx.Node]
) -> fx.Node:
    """Append a use of every value on `stream` after `dependencies`, so that none is freed or reused before; return its node."""
    inner = fx.Graph()
    inside = [_placeholder(inner, value) for value in values]
    for value in inside:
        last = inner.call_function(torch.ops.streams.sync_dealloc.default, (event, stream, value))
    inner.output(last)
    node = _append(module, "lifetimes", inner, dependencies, values)
    set_stream(node, stream)
    return node


def force_realize(module: fx.GraphModule, values: Sequence[fx.Node], strides: Mapping[fx.Node, Sequence[int]]) -> None:
    """Append a point by which Inductor has to realize every value, which it may otherwise put off until a later use.

    `strides` are those to store values with; without them, the uses that come next decide a value's layout.
    """
    inner = fx.Graph()
    stored = [value for value in values if strides.get(value)]
    # Placeholders come first, because torch 2.14 counts them by their position among all nodes.
    placed = [(_placeholder(inner, value), list(strides[value])) for value in stored]
    for arguments in placed:
        inner.call_function(STORE, arguments)
    inner.output(None)
    _append(module, "realize", inner, values, stored)


def _append(
    module: fx.GraphModule, name: str, inner: fx.Graph, dependencies: Sequence[fx.Node], values: Sequence[fx.Node]
) -> fx.Node:
    attribute = _free_name(module, f"graphstreams_{name}")
    setattr(module, attribute, _LazyGraphModule(torch.nn.Module(), inner))  # whose code nobody asks for
    arguments: Any = (tuple(dependencies), module.graph.get_attr(attribute), *values)
    node = module.graph.create_node("call_function", control_deps, arguments, name=attribute.removeprefix("graphstreams_"))
    node.meta["val"] = None
    return node


def _free_name(module: fx.GraphModule, base: str) -> str:
    """Return a name that no attribute of a module has: `base`, or with the next number behind it.

    Names are given in order, so the last one is searched for by halves: a deep graph has thousands.
    """
    if not hasattr(module, base):
        return base
    taken, free = 1, 2
    while hasattr(module, f"{base}_{free}"):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if hasattr(module, f"{base}_{middle}") else (taken, middle)
    return f"{base}_{free}"


def _placeholder(graph: fx.Graph, value: fx.Node) -> fx.Node:
    node = graph.placeholder(value.name)
    node.meta = {"val": value.meta.get("val")}
    return node
