"""What the serial code has that the kernels as they were read have not: joined launches, and kernels chosen by timing.

Read in torch 2.15.0: `_inductor/scheduler.py` (ForeachKernelSchedulerNode), `_inductor/ir.py` (SubgraphBuffer).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Any

from torch._inductor.scheduler import ForeachKernelSchedulerNode

from graphstreams.inductor import scheduler_nodes
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.kernels import KernelGraph


def joined_kernels(serial: Lowered, kernels: KernelGraph) -> list[set[int]]:
    """Return the kernels that each launch of the serial code joins, for launches that join several.

    Within the `active` context of `serial`.
    """
    owner = {name: kernel.id for kernel in kernels.kernels for name in kernel.nodes}
    found = []
    for node in serial.nodes:
        if isinstance(node, ForeachKernelSchedulerNode):
            owners = (_owner(leaf, owner) for leaf in scheduler_nodes.leaves(node))
            found.append({kernel for kernel in owners if kernel is not None})
    return [owners for owners in found if len(owners) > 1]


def _owner(leaf: Any, owner: Mapping[str, int]) -> int | None:
    # Origins hold those of operands too, which come first.
    origins = reversed(scheduler_nodes.ordered_origins([leaf]))
    return next((owner[origin.name] for origin in origins if origin.name in owner), None)


def most_saved_us(joined: Iterable[Iterable[int]], us: Sequence[float]) -> float:
    """Return the us that joined launches save at most: of each, all but its longest kernel."""
    times = [[us[kernel] for kernel in kernels] for kernels in joined]
    return fsum(fsum(each) - max(each) for each in times if each)


def template_count(lowered: Lowered) -> int:
    """Return how many kernels are made from a template, as matrix products are that max-autotune chose."""
    return sum(bool(node.is_template()) for node in lowered.nodes)


def subgraph_count(lowered: Lowered) -> int:
    """Return for how many operators max-autotune chose a graph of several kernels: products split along K (decompose_k)."""
    return sum(scheduler_nodes.is_subgraph(node) for node in lowered.nodes)
