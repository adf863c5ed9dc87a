"""What Inductor's scheduler is told of the plan: the order on each stream, and which kernels may be one.

Records, waits and kernels are operations in the order of the rewritten graph. Dependencies between the operations alone keep
them there: no value gets another name, so each kernel is fused as in the serial graph. Read in torch 2.15.0:
`_inductor/graph.py` (operations, additional_buffer_deps), `_inductor/scheduler.py` (compute_dependencies, can_fuse),
`_inductor/choices.py` (InductorChoices.can_fuse).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from graphstreams.graph import describe

KERNEL = "graphstreams_kernel"  # key in node.meta; its value is the id of the kernel whose region the node is in


def keep_stream_order(graph: Any) -> None:
    """Make every operation of a lowered graph depend on the last record or wait before it on its own stream.

    A record or a wait depends on what its stream has before it, by its `control_deps`, so nothing crosses it in either
    direction. To be called once all nodes are lowered and before the scheduler is made.
    """
    last: dict[int, str] = {}  # per stream, the buffer that stands for its last stream operation
    for operation in graph.operations:
        stream = operation.get_stream_idx() or 0
        if is_stream_operation(operation):
            last[stream] = operation.get_name()
        elif stream in last:
            graph.additional_buffer_deps[operation.operation_name].add(last[stream])


def is_stream_operation(operation: Any) -> bool:
    """Whether an operation of a lowered graph records an event or waits for one."""
    streams = torch.ops.streams
    return getattr(operation, "op_overload", None) in (streams.record_event.default, streams.wait_event.default)


def regions_of(node: Any) -> set[int]:
    """The kernels whose regions a scheduler node computes."""
    return {kernel for leaf in describe.leaves(node) for kernel in _region(leaf)}


def _region(leaf: Any) -> Iterator[int]:
    """The region of one lowered node: its last origin's, for origins hold those of its operands too."""
    origins = [origin for origin in describe.origins(leaf) if KERNEL in origin.meta]
    if origins:
        yield max(origins).meta[KERNEL]


class FusionInRegions:
    """Inductor's heuristics of before, with no fusion of two kernels of the plan."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)

    def can_fuse(self, scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:
        """Whether two scheduler nodes may become one kernel."""
        if regions_of(node1) != regions_of(node2):
            return False
        return bool(self._before.can_fuse(scheduler, node1, node2, shared_data_score))
