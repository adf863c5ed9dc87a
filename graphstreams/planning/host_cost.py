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


def synchronisations(plan: Plan) -> tuple[int, int]:
    """How many records and waits there are, and how many contexts of aux streams."""
    operations = len(plan.events) + sum(len(event.waits) for event in plan.events)
    streams = [stream for stream, _ in itertools.groupby(placement.stream for placement in plan.placements)]
    return operations, sum(stream != 0 for stream in streams)


def host_cost(plan: Plan) -> float:
    """The host time that the plan's events and contexts take, in launches."""
    operations, contexts = synchronisations(plan)
    return EVENT * operations + CONTEXT * contexts


def extra_host_time(plan: Plan, graph: KernelGraph) -> float:
    """The share of the host time of the serial graph's launches that the plan adds to a direct call.

    A graph that does not tell its launches, as one from a profile, counts one for each kernel.
    """
    launches = sum(len(kernel.launches) for kernel in graph.kernels) or len(graph.kernels)
    return host_cost(plan) / launches if launches else 0.0


def light(plans: Sequence[Plan], graph: KernelGraph, allowed: float) -> list[Plan]:
    """The plans whose share is `allowed`; all of them where none of those has several streams."""
    found = [plan for plan in plans if extra_host_time(plan, graph) <= allowed]
    return found if any(plan.streams > 1 for plan in found) else list(plans)
