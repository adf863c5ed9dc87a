"""Tell Inductor's scheduler what of the plan it has to keep: which kernels may be fused, and the order on each stream.

Inductor's heuristics look at the names of values and at dependencies. So no value is renamed to keep an order, and kernels have
the dependencies of the serial graph while they are fused and while their code is generated. Only in between, while kernels may
be moved, do they depend on records and waits. Read in torch 2.15.0: `_inductor/scheduler.py` (Scheduler._init, can_fuse),
`_inductor/graph.py` (codegen).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch._inductor import ir
from torch._inductor.dependencies import WeakDep

from graphstreams.inductor.foreach import ForeachScheduler
from graphstreams.inductor.scheduler_nodes import leaves, origins, stream_operation

IN_PLACE = "graphstreams_in_place"  # key in node.meta of a concatenation that launches nothing: its pieces are written into it
KERNEL = "graphstreams_kernel"  # key in node.meta; its value is the id of the kernel whose region the node is in


def order_by_stream(nodes: list[Any]) -> list[Any]:
    """Make every fused node depend on the last record or wait before it on its own stream; return the same nodes.

    A record or a wait depends, by its `control_deps`, on what its stream has before it. So no kernel crosses it in either
    direction.
    """
    last: dict[int, str] = {}  # per stream, the buffer that stands for its last record or wait
    for node in nodes:
        stream = node.scheduler.get_node_stream(node)
        if synchronizes(node):
            last[stream] = node.node.get_name()
        elif stream in last:
            dependency = WeakDep(last[stream], node.get_name(), is_fake=True)
            _set_reads(node, node.read_writes.with_read(dependency))
            node.unmet_dependencies = type(node.unmet_dependencies)([*node.unmet_dependencies, dependency])
    return nodes


def forget_order(nodes: Iterable[Any]) -> None:
    """Take from kernels, the order of which is final, every dependency on a record or a wait."""
    listed = list(nodes)
    operations = {one.node.get_name() for one in listed if synchronizes(one)}
    for node in {each for one in listed for each in (one, *leaves(one))}:
        if not synchronizes(node):
            reads = node.read_writes.reads
            extra = type(reads)(dep for dep in reads if isinstance(dep, WeakDep) and dep.name in operations)
            if extra:
                _set_reads(node, node.read_writes.remove_reads(extra))


def _set_reads(node: Any, read_writes: Any) -> None:
    # A fused node's `set_read_writes` is only for its own construction.
    node.read_writes = read_writes
    node.clear_read_writes_dependent_caches()


def synchronizes(node: Any) -> bool:
    """Return whether a scheduler node records an event or waits for one."""
    return stream_operation(node) in ("record_event", "wait_event")


def regions_of(node: Any) -> frozenset[int]:
    """Return the kernels whose regions a scheduler node computes."""
    # The origins of a leaf include those of its operands; the last one is its own.
    kernels = [[origin.meta[KERNEL] for origin in origins(leaf) if KERNEL in origin.meta] for leaf in leaves(node)]
    return frozenset(each[-1] for each in kernels if each)


class RegionScheduler(ForeachScheduler):
    """Inductor's scheduler, except that it never fuses kernels of two regions.

    It says so before it looks at anything else of two kernels, of which a deep graph has many pairs: all that read one input.
    """

    def __init__(self, nodes: Any) -> None:
        self._regions: dict[Any, frozenset[int]] = {}
        for node in nodes:
            if isinstance(node, ir.AssertScalar):  # which is on the CPU: around it Inductor would leave the GPU's context
                node.layout = ir.NoneLayout(device=None)
        super().__init__(nodes)

    def can_fuse(self, node1: Any, node2: Any, *args: Any, **kwargs: Any) -> bool:
        """Return whether two scheduler nodes may become one kernel."""
        if self._regions_of(node1) != self._regions_of(node2):
            return False
        return bool(super().can_fuse(node1, node2, *args, **kwargs))

    def _regions_of(self, node: Any) -> frozenset[int]:
        if node not in self._regions:
            self._regions[node] = regions_of(node)
        return self._regions[node]
