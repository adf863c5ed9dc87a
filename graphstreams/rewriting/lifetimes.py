"""Choose the values that have to stay alive until the streams have joined.

As soon as the host frees a block, the allocator may give it to the next allocation on the stream that allocated it. So a value
that a second stream reads may be freed only once the allocating stream has waited for that read. After the join that holds for
every stream, because the caller's stream has waited for all work and the next call forks from it.
"""

from __future__ import annotations

import torch
from torch import fx

from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading


def held_values(reading: Reading, plan: Plan) -> list[fx.Node]:
    """Return the values, inputs of the graph too, in storages that several streams touch, in graph order.

    Storages count, not values: an operator in place may put a value of another stream into memory that the stream of the first
    value allocated. Values on the CPU come last, because Inductor leaves the device guard for them.
    """
    touched = {storage: {0} for node, storage in reading.storages.items() if node.op == "placeholder"}
    stream_of = plan.stream_of()
    for kernel in reading.kernels.kernels:
        for access in (*kernel.reads, *kernel.writes):
            touched.setdefault(access.storage, set()).add(stream_of[kernel.id])
    held = [node for node, storage in reading.storages.items() if len(touched.get(storage, ())) > 1]
    return sorted(held, key=lambda node: (_on_cpu(node), node))


def _on_cpu(node: fx.Node) -> bool:
    """Return whether a value is on the CPU, such as a float that is an input of a graph with dynamic shapes."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"
