"""Make a plan of an assignment of kernels to streams and its times: order of the host's calls, events, bounds."""

from __future__ import annotations

from collections.abc import Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Placement, Plan
from graphstreams.planning.paths import (
    Assignment,
    Timing,
    bottom_levels,
    critical_path,
    enqueue_order,
    occupied_us,
    serial_us,
)
from graphstreams.planning.synchronization import place_events


def assignment_of(plan: Plan) -> Assignment:
    """Return the order, the streams and the priority of a plan."""
    stream = plan.stream_of()
    order = [place.kernel for place in plan.placements]
    return Assignment(order, [stream[kernel] for kernel in range(len(stream))], plan.priority)


def assemble(
    graph: KernelGraph, assignment: Assignment, timing: Timing, us: Sequence[float], streams: int, event_us: float
) -> Plan:
    """Return the plan that puts the kernels where `assignment` says, with the fewest events, at the times of `timing`.

    `us` has the us of each kernel, `streams` is how many a plan might have used: the lower bound is for that number.
    """
    successors = graph.successors()
    remaining = bottom_levels(successors, us, graph.background())
    order = enqueue_order(assignment, timing.start, graph.predecessors())
    stream = assignment.stream
    occupied, longest = occupied_us(graph, us), max(remaining, default=0.0)
    return Plan(
        name=graph.name,
        streams=assignment.streams,
        placements=tuple(Placement(k, graph.kernels[k].name, stream[k], timing.start[k], timing.end[k]) for k in order),
        events=place_events(graph, order, dict(enumerate(stream))),
        serial_us=serial_us(graph, us),
        streamed_us=timing.makespan,
        # Event costs stay out of the bound, because a plan that has all on one stream pays none.
        # The minimum is there because sums taken in another order are rounded otherwise.
        lower_bound_us=min(max(longest, occupied / streams), timing.makespan),
        critical_path_us=longest,
        critical_path=critical_path(successors, remaining),
        event_us=event_us,
        priority=assignment.priority,
    )
