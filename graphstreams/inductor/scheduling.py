"""What Inductor's scheduler is told of the plan: which kernels may be one, and the order on each stream.

No value gets another name for the sake of order, and no kernel has a dependency that the serial graph's has not while it is
fused and while its code is generated, for Inductor's heuristics look at both. Only in between, while kernels may be moved, are
there dependencies on records and waits. Read in torch 2.15.0: `_inductor/scheduler.py` (Scheduler._init, can_fuse),
`_inductor/choices.py` (InductorChoices.can_fuse), `_inductor/graph.py` (codegen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._inductor.dependencies import WeakDep

from graphstreams.inductor import scheduler_nodes

KERNEL = "graphstreams_kernel"  # key in node.meta; its value is the id of the kernel whose region the node is in


def order_by_stream(nodes: list[Any]) -> list[Any]:
    """Make every fused node depend on the last record or wait before it on its own stream; return the same nodes.

    A record or a wait depends on what its stream has before it, by its `control_deps`, so nothing crosses it in either
    direction.
    """
    last: dict[int, str] = {}  # per stream, the buffer that stands for its last record or wait
    for node in nodes:
        stream = node.scheduler.get_node_stream(node)
        if is_stream_operation(node.node):
            last[stream] = node.node.get_name()
        elif stream in last:
            dependency = WeakDep(last[stream], node.get_name(), is_fake=True)
            _set_reads(node, node.read_writes.with_read(dependency))
            node.unmet_dependencies = type(node.unmet_dependencies)([*node.unmet_dependencies, dependency])
    return nodes


def forget_order(nodes: Iterable[Any]) -> None:
    """Take from kernels, whose order is final, every dependency on a record or a wait."""
    listed = list(nodes)
    operations = {one.node.get_name() for one in listed if is_stream_operation(one.node)}
    for node in {each for one in listed for each in (one, *scheduler_nodes.leaves(one))}:
        if not is_stream_operation(node.node):
            extra = type(node.read_writes.reads)(dep for dep in node.read_writes.reads if _orders(dep, operations))
            if extra:
                _set_reads(node, node.read_writes.remove_reads(extra))


def _orders(dependency: Any, operations: set[str]) -> bool:
    return isinstance(dependency, WeakDep) and dependency.name in operations


def _set_reads(node: Any, read_writes: Any) -> None:
    # Not by `set_read_writes`, which a fused node has for its own making only.
    node.read_writes = read_writes
    node.clear_read_writes_dependent_caches()


def settings(before: Callable[[list[Any]], list[Any]] | None) -> dict[str, Any]:
    """Inductor's setting by which `order_by_stream` runs once kernels are fused, after the pass that was set `before`."""

    def run(nodes: list[Any]) -> list[Any]:
        return order_by_stream(before(nodes) if before is not None else nodes)

    return {"_post_fusion_custom_pass": run}


def is_stream_operation(operation: Any) -> bool:
    """Whether an operation of a lowered graph, if it is one, records an event or waits for one."""
    streams = torch.ops.streams
    return getattr(operation, "op_overload", None) in (streams.record_event.default, streams.wait_event.default)


def regions_of(node: Any) -> set[int]:
    """The kernels whose regions a scheduler node computes."""
    return {kernel for leaf in scheduler_nodes.leaves(node) for kernel in _region(leaf)}


def _region(leaf: Any) -> Iterator[int]:
    """The region of one lowered node: its last origin's, for origins hold those of its operands too."""
    origins = [origin for origin in scheduler_nodes.origins(leaf) if KERNEL in origin.meta]
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
