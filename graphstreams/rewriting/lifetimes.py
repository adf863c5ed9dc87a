"""Which values have to outlive the join.

The allocator hands a freed block to the next allocation on the stream that allocated it, at the moment the host frees it.
So a value that a second stream reads may be freed only once the allocating stream has waited for that read. After the join
that holds for every stream: the caller's stream has waited for all work, and the next call forks from it.
"""

from __future__ import annotations

import torch
from torch import fx

from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading


def held_values(reading: Reading, plan: Plan) -> list[fx.Node]:
    """Values, and inputs of the graph, in storages that several streams touch. In graph order, those on the CPU last.

    By storage, not by value: an operator in place gives a second value, made on another stream, to memory that the stream of
    the first value allocated. Inductor leaves the device guard for a value on the CPU.
    """
    touched = {storage: {0} for node, storage in reading.storages.items() if node.op == "placeholder"}
    stream_of = plan.stream_of()
    for kernel in reading.kernels.kernels:
        for access in (*kernel.reads, *kernel.writes):
            touched.setdefault(access.storage, set()).add(stream_of[kernel.id])
    held = [node for node, storage in reading.storages.items() if len(touched.get(storage, ())) > 1]
    order = {node: i for i, node in enumerate(reading.module.graph.nodes)}
    return sorted(held, key=lambda node: (_on_cpu(node), order[node]))


def _on_cpu(node: fx.Node) -> bool:
    """Whether a value is on the CPU, such as a float that is an input of a graph with dynamic shapes."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"
