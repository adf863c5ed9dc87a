"""Plan kernels by modelled times: what each takes alone, and what they cost side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphstreams.costs.footprint import Blocks
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.repeated_layers import Layers, layered, part_of, repeated_layers
from graphstreams.planning.simulator import EVENT_US, simulator

# us that a wait across streams adds in a list schedule, which knows no contention: it stands for some of that too. Of 0.2 to
# 1.0 us the plans with 1.0 were best on one H200; the wait by itself takes 0.3 us.
LISTED_WAIT_US = 1.0


def simulated_plan(
    graph: KernelGraph, us: Sequence[float], device: Device, options: Options, blocks: Mapping[int, Blocks] | None = None
) -> Plan:
    """Return the best plan on the simulator for kernels that take `us` us on `device`, each by itself.

    `blocks` are as `plan_space` takes them.
    """
    space = plan_space(graph, us, device, options, blocks)
    plan, layers = search_on_simulator(space), repeated_layers(graph)
    if layers is None:
        return plan
    return min(space.plan(simulated_layers(graph, us, device, options, layers)), plan, key=lambda each: each.streamed_us)


def simulated_layers(
    graph: KernelGraph, us: Sequence[float], device: Device, options: Options, layers: Layers,
    layer: Assignment | None = None,
) -> Assignment:  # fmt: skip
    """Return the assignment of a graph whose layers all have that of the middle one: `layer`, or the best on the simulator."""
    middle = layers.kernels(layers.count // 2)

    def assign(part: range) -> Assignment:
        if layer is not None and part == middle:
            return layer
        own = [us[kernel] for kernel in part]
        return assignment_of(search_on_simulator(plan_space(part_of(graph, part), own, device, options)))

    return layered(layers, len(us), assign)


def plan_space(
    graph: KernelGraph, us: Sequence[float], device: Device, options: Options, blocks: Mapping[int, Blocks] | None = None
) -> SearchSpace:
    """Return the plans to choose from, with a simulator that knows what kernels cost side by side.

    `us` has the us of each kernel alone on `device`, `blocks` the measured blocks by kernel id, as far as they are known.
    """
    wait_us = simulated_wait_us(options)
    simulate = simulator(graph, us, device, wait_us, blocks)
    space = SearchSpace(graph, us, options.streams, listed_wait_us(options), simulate, wait_us)
    return space.prioritized(options.priority) if options.priority else space


def simulated_wait_us(options: Options) -> float:
    """Return the us that a wait across streams adds on the simulator."""
    return EVENT_US if options.event_us is None else options.event_us


def listed_wait_us(options: Options) -> float:
    """Return the us that a wait across streams adds in a list schedule."""
    return LISTED_WAIT_US if options.event_us is None else options.event_us
