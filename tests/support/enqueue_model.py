"""Model what the host enqueues for a rewritten graph, and the allocator that hands memory out meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from graphstreams.inductor.stream_ops import control_deps
from graphstreams.reading.eligibility import is_host_value
from graphstreams.rewriting.regions import KERNEL


@dataclass
class Step:
    """What a stream runs at once: the nodes of one kernel, a record or a wait. Holding values is the host's business."""

    stream: int
    nodes: list[fx.Node] = field(default_factory=list)
    uses: dict[fx.Node, None] = field(default_factory=dict)  # made elsewhere, read or written or held here
    record: int | None = None
    wait: int | None = None
    makes: dict[int, fx.Node] = field(default_factory=dict)  # storage that it allocates -> the first node that has it
    poisons: list[int] = field(default_factory=list)  # blocks that are free when it is enqueued


class Pools:
    """A caching allocator: each stream's free blocks, handed out last in, first out, whole."""

    def __init__(self) -> None:
        self.sizes: list[int] = []  # of each block, in bytes
        self._free: dict[int, list[int]] = {}

    def new(self, size: int) -> int:
        """Return a block that nobody had before."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def take(self, stream: int, size: int) -> int:
        """Return a free block of the stream if any is large enough, else a new one."""
        fitting = [block for block in self.free(stream) if self.sizes[block] >= size]
        if not fitting:
            return self.new(size)
        self._free[stream].remove(fitting[-1])
        return fitting[-1]

    def give(self, stream: int, block: int) -> None:
        """Put a block back."""
        self._free.setdefault(stream, []).append(block)

    def free(self, stream: int) -> list[int]:
        """Return the stream's free blocks."""
        return list(self._free.get(stream, ()))


def steps(module: fx.GraphModule) -> list[Step]:
    """Return kernels, records, waits and holds in the host's order. Nodes of one kernel that are together are one step."""
    found: list[Step] = []
    recorded: set[int | None] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or is_host_value(node):
            continue
        if node.target is control_deps:
            step = _stream_operation(node, getattr(module, node.args[1].target))
            # A wait that is enqueued before its event is recorded returns at once.
            step.wait = step.wait if step.wait in recorded else None
            recorded.add(step.record)
            found.append(step)
        elif found and found[-1].nodes and found[-1].nodes[0].meta.get(KERNEL) == node.meta.get(KERNEL):
            found[-1].nodes.append(node)
        else:
            found.append(Step(_stream(node), [node]))
    for step in found:
        step.uses |= dict.fromkeys(a for n in step.nodes for a in n.all_input_nodes if a not in step.nodes)
    return found


def _stream_operation(node: fx.Node, inner: fx.GraphModule) -> Step:
    calls = inner.graph.find_nodes(op="call_function", target=torch.ops.streams.record_event.default)
    if calls:
        return Step(calls[0].args[1], record=calls[0].args[0])
    calls = inner.graph.find_nodes(op="call_function", target=torch.ops.streams.wait_event.default)
    if calls:
        return Step(calls[0].args[1], wait=calls[0].args[0])
    return Step(_stream(node), uses=dict.fromkeys(a for a in node.args[2:] if isinstance(a, fx.Node)))


def _stream(node: fx.Node) -> int:
    return node.meta.get("custom", {}).get("stream") or 0


def tensors(value: Any) -> list[torch.Tensor]:
    """Return all tensors of a value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def storages(value: Any) -> dict[int, int]:
    """Return every storage of a value as its handle and its size in bytes."""
    found = [tensor.untyped_storage() for tensor in tensors(value)]
    return {storage._cdata: storage.nbytes() for storage in found}


def contents(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of the tensor's whole storage, not a copy."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
