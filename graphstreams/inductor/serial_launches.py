"""Tell how Inductor launches a graph's serial code: which kernels it joins, which it chose by timing, where it cuts.

Read in torch 2.15.0: `_inductor/scheduler.py` (ForeachKernelSchedulerNode, should_partition), `_inductor/ir.py`
(SubgraphBuffer).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum

from torch._inductor.scheduler import ForeachKernelSchedulerNode

from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.scheduler_nodes import is_subgraph, launch_names, leaves, origins
from graphstreams.ir.kernels import KernelGraph


def joined_kernels(serial: Lowered, kernels: KernelGraph) -> list[set[int]]:
    """Return the kernels that each launch of the serial code joins, for launches that join several.

    Called in the `active` context of `serial`.
    """
    owner = {name: kernel.id for kernel in kernels.kernels for name in kernel.nodes}
    found = []
    for node in serial.nodes:
        if isinstance(node, ForeachKernelSchedulerNode):
            # The origins of a leaf include those of its operands; the last one is its own.
            owners = ([owner[o.name] for o in origins(leaf) if o.name in owner] for leaf in leaves(node))
            found.append({each[-1] for each in owners if each})
    return [owners for owners in found if len(owners) > 1]


def most_saved_us(joined: Iterable[Iterable[int]], us: Sequence[float]) -> float:
    """Return the us that joined launches save at most: of each launch, the times of all kernels but the longest."""
    times = [[us[kernel] for kernel in kernels] for kernels in joined]
    return fsum(fsum(each) - max(each) for each in times if each)


def template_count(lowered: Lowered) -> int:
    """Return how many kernels are made from a template, such as those that max-autotune chooses for matrix products."""
    return sum(bool(node.is_template()) for node in lowered.nodes)


def subgraph_count(lowered: Lowered) -> int:
    """Return for how many operators max-autotune chose a graph of several kernels, such as a product split along K."""
    return sum(is_subgraph(node) for node in lowered.nodes)


def where_cut(serial: Lowered) -> str:
    """Return at which operator and why Inductor cuts a lowered graph into several CUDA graphs; empty if unknown.

    Called in the `active` context of `serial`.
    """
    for node in serial.nodes:
        if reason := serial.graph.scheduler.should_partition(node):
            names = launch_names(node)
            return f" at {names[0] if names else node.get_name()} ({reason})"
    return ""
