"""TODO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphstreams.costs.footprint import Blocks, footprints
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.local_search import search_on_simulator
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment, Timing
from graphstreams.planning.simulator import EVENT_US, simulate

# us that a wait across streams adds in a list schedule, which knows no contention: it stands for some of that too. Of 0.2 to
# 1.0 us the plans with 1.0 were best on one H200; the wait by itself takes 0.3 us (costs/data/h200.json).
LISTED_WAIT_US = 1.0


def simulated_plan(graph: KernelGraph, us: Sequence[float], device: Device, options: Options) -> Plan:
    """The plan that is best on the simulator, for kernels that take `us` us on `device`, each by itself."""
    return replace(search_on_simulator(plan_space(graph, us, device, options)), priority=options.priority or 0)


def plan_space(
    graph: KernelGraph, us: Sequence[float], device: Device, options: Options, blocks: Mapping[int, Blocks] | None = None
) -> SearchSpace:
    """The plans to choose from, with a simulator that knows what kernels cost side by side."""
    predecessors, taken = graph.predecessors(), footprints(graph, us, device, blocks)
    simulated_us = EVENT_US if options.event_us is None else options.event_us

    def simulated(assignment: Assignment) -> Timing:
        # In a CUDA graph the first kernels of all streams wait for nothing.
        return simulate(assignment, predecessors, us, taken, simulated_us, fork_us=0.0)

    return SearchSpace(graph, us, options.streams, listed_wait_us(options), simulated, simulated_us)


def listed_wait_us(options: Options) -> float:
    """The us that a wait across streams adds in a list schedule."""
    return LISTED_WAIT_US if options.event_us is None else options.event_us
