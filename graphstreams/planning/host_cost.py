"""What a plan costs the host in a direct call, where no CUDA graph replays its launches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from graphstreams.graph.kernels import KernelGraph
from graphstreams.planning.plan import Plan

# In host times of one launch, of which the serial code of DeepSeek V3.2's layer took 13 us: the host of an H200, torch 2.15.0,
# generated code of 45 plans for three sizes of that layer, fitted to 1.3 % of serial's time (docs/measurements.md).
EVENT = 0.13  # one record or one wait
CONTEXT = 0.10  # into an aux stream's context and out of it
ALWAYS = 3.0  # launches, 40 to 60 us: of a few kernels two streams take more than any small share


def synchronisations(plan: Plan) -> tuple[int, int]:
    """How many records and waits there are, and how many contexts of aux streams."""
    operations = len(plan.events) + sum(len(event.waits) for event in plan.events)
    streams = [stream for stream, _ in itertools.groupby(placement.stream for placement in plan.placements)]
    return operations, sum(stream != 0 for stream in streams)


def host_cost(plan: Plan) -> float:
    """The host time that the plan's events and contexts take, in launches."""
    operations, contexts = synchronisations(plan)
    return EVENT * operations + CONTEXT * contexts


def launches_of(graph: KernelGraph) -> int:
    """The launches of the serial graph. One that does not tell them, as one from a profile, counts one for each kernel."""
    return sum(len(kernel.launches) for kernel in graph.kernels) or len(graph.kernels)


def extra_host_time(plan: Plan, graph: KernelGraph) -> float:
    """The share of the host time of the serial graph's launches that the plan adds to a direct call."""
    launches = launches_of(graph)
    return host_cost(plan) / launches if launches else 0.0


def allowed_cost(graph: KernelGraph, share: float) -> float:
    """What a plan may cost the host, in launches, where it may add `share` of the serial graph's; a few are always allowed."""
    return max(share * launches_of(graph), ALWAYS)


def light(plans: Sequence[Plan], allowed: float) -> list[Plan]:
    """The plans that cost the host no more than `allowed` launches; all of them where none of those has several streams."""
    found = [plan for plan in plans if host_cost(plan) <= allowed]
    return found if any(plan.streams > 1 for plan in found) else list(plans)
