"""Peak memory of a lowered graph, by Inductor's own estimate of when its buffers live.

Read in torch 2.15.0: `_inductor/memory.py` (prepare_planning_info).
"""

from __future__ import annotations

from torch._inductor.memory import prepare_planning_info
from torch.utils._ordered_set import OrderedSet

from graphstreams.inductor.lowering import Lowered


def peak_memory(lowered: Lowered) -> int:
    """Bytes of all buffers that live at once, at most, at the example sizes. Inputs do not count: the caller holds them."""
    scheduler = lowered.graph.scheduler
    outputs = OrderedSet(lowered.graph.get_output_names())
    peak, _ = prepare_planning_info(lowered.nodes, scheduler.name_to_buf, scheduler.name_to_fused_node, OrderedSet(), outputs)
    return int(peak)
