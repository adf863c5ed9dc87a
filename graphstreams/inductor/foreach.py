"""Put a foreach kernel on the stream of its parts, and tell in how many launches Inductor writes it.

A foreach operator on lists is one scheduler node, which has no IR node of its own. Combo kernels, which Inductor joins by
itself, have the same form.
Read in torch 2.15.0: `_inductor/scheduler.py` (ForeachKernelSchedulerNode, Scheduler._populate_stream_assignments),
`_inductor/codegen/simd.py` (generate_combo_kernel_code), `_inductor/codegen/triton_combo_kernel.py` (horizontal_partition).
"""

from __future__ import annotations

from typing import Any

from torch._inductor import config
from torch._inductor.codegen.simd import NodeInfo
from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures
from torch._inductor.codegen.triton_combo_kernel import ComboKernel
from torch._inductor.scheduler import ForeachKernelSchedulerNode, Scheduler
from torch._inductor.virtualized import V


class ForeachScheduler(Scheduler):
    """Inductor's scheduler, which knows the stream of foreach kernels too."""

    def _populate_stream_assignments(self) -> None:
        super()._populate_stream_assignments()
        for node in self.nodes:
            if isinstance(node, ForeachKernelSchedulerNode):
                self._follow_parts(node)

    def _follow_parts(self, node: ForeachKernelSchedulerNode) -> None:
        """Put a foreach kernel on the stream that all its parts are on; it stays on the caller's if they differ."""
        annotated = {leaf.node.get_stream_idx() for leaf in node.get_nodes() if leaf.node is not None}
        shared = annotated.pop() if len(annotated) == 1 else None
        if shared is None:
            return
        stream = self._get_or_create_stream_idx_for_user_obj(shared)
        self.node_to_stream[node] = stream
        self.buff_to_stream.update(dict.fromkeys(node.get_buffer_names(), stream))
        self._multi_stream_nodes = True


def is_foreach(node: Any) -> bool:
    """Return whether a scheduler node has parts that run side by side in one kernel."""
    return isinstance(node, ForeachKernelSchedulerNode)


def launched_together(node: Any) -> list[list[Any]]:
    """Return the parts of a foreach kernel by launch: a launch holds parts of one tiling, and only so many arguments.

    Called inside `V.set_graph_handler` of the node's graph.
    """
    parts = node.get_subkernel_nodes()
    scheduling: Any = V.graph.scheduler.get_backend(node.get_device())
    triton = getattr(scheduling, "_triton_scheduling", scheduling)
    infos = {part: _info(triton, part, node.per_subkernel_blocks) for part in parts}
    return ComboKernel.horizontal_partition(parts, triton, infos, node.use_custom_partition_algo)


def _info(triton: Any, part: Any, own_blocks: bool) -> NodeInfo:
    """Return what Inductor looks at to choose which parts share a launch; `own_blocks` if each has block sizes of its own."""
    leaves = part.get_nodes()
    reduced = next((leaf for leaf in leaves if leaf.is_reduction()), leaves[0])
    _, (count, reduction) = reduced.group
    schedule = triton.generate_node_schedule(leaves, count, reduction)
    analysis = part.get_coalesce_analysis() if own_blocks and config.triton.coalesce_tiling_analysis else None
    features = SIMDKernelFeatures(schedule, count, reduction, coalesce_analysis=analysis)
    tiling = triton.select_tiling(schedule, count, reduction, features.coalesce_analysis if own_blocks else None)
    return NodeInfo(schedule, tiling, None, count, reduction, features, is_persistent_reduction=False)
