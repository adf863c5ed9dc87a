"""Make the plan of a file that a person may have edited: on the graph that it is for, with the order that the file says.

Nothing of the file is put right: a kernel that the file leaves unordered is a reason not to use it. A wait that orders nothing
more, because its own stream or another wait does, gets no event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphstreams.costs.footprint import Blocks
from graphstreams.errors import PlanFileError
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Event, Placement, Plan
from graphstreams.ir.plan_file import PlanFile, PlannedKernel, bytes_touched, near
from graphstreams.messages import listed
from graphstreams.planning.build_plan import assemble, assignment_of
from graphstreams.planning.simulator import simulator
from graphstreams.planning.synchronization import check_plan, place_events


def likeness(file: PlanFile, graph: KernelGraph) -> float:
    """Return the share of kernels that a file and a graph have in common by name, from 0 to 1."""
    one, other = {kernel.name for kernel in file.kernels}, {kernel.name for kernel in graph.kernels}
    return len(one & other) / max(len(one), len(other), 1)


def misfit(file: PlanFile, graph: KernelGraph) -> str:
    """Return why a file is the plan of another graph: a kernel that differs in name, launches or bytes; empty if none does."""
    planned = {kernel.name: kernel for kernel in file.kernels}
    names = [kernel.name for kernel in graph.kernels]
    if unknown := [name for name in planned if name not in set(names)]:
        return f"the plan has kernel {unknown[0]!r}, which the graph does not have{near(unknown[0], names)}"
    for kernel in graph.kernels:
        if kernel.name not in planned:
            return f"the graph has kernel {kernel.name!r}, which the plan does not place"
        if difference := _difference(planned[kernel.name], kernel):
            return difference
    return ""


def given_plan(file: PlanFile, graph: KernelGraph, streams: int) -> Plan:
    """Return the plan of a file for a graph, on at most `streams` streams, with all times 0.

    Raises PlanFileError, with the kernel at fault, if the file is not for this graph, if a kernel is on a stream that it may
    not be on, if a wait is for no kernel or for one that is enqueued later, or if two kernels of which one depends on the other
    are not ordered.
    """
    if difference := misfit(file, graph):
        raise PlanFileError(difference)
    ids = {kernel.name: kernel.id for kernel in graph.kernels}
    for planned in file.kernels:
        _check_stream(planned, graph.kernels[ids[planned.name]], streams)
    order = [ids[planned.name] for planned in file.kernels]
    stream_of = {ids[planned.name]: planned.stream for planned in file.kernels}
    placements = tuple(Placement(kernel, graph.kernels[kernel].name, stream_of[kernel], 0.0, 0.0) for kernel in order)
    used = 1 + max(stream_of.values(), default=0)
    try:
        events = _events(file, graph, order, stream_of, ids)
        plan = Plan(graph.name, used, placements, events, 0.0, 0.0, 0.0, 0.0, (), priority=file.priority)
        check_plan(graph, plan)
    except ValueError as error:
        hint = "; add the wait, or leave out all 'waits' to have them placed" if "is not ordered after" in str(error) else ""
        raise PlanFileError(f"{error}{hint}") from None
    return plan


def with_times(
    plan: Plan, graph: KernelGraph, us: Sequence[float], device: Device, wait_us: float,
    blocks: Mapping[int, Blocks] | None = None,
) -> Plan:  # fmt: skip
    """Return a plan with the times that the simulator tells, and the order and the events that it has.

    `us` has the us of each kernel alone on `device`; a wait across streams adds `wait_us` us.
    """
    assignment = assignment_of(plan)
    waits = [(event.after, wait.kernel) for event in plan.events for wait in event.waits]
    pairs = [(before, after) for before, after in waits if before >= 0 and after >= 0]
    timing = simulator(graph, us, device, wait_us, blocks, waits=pairs)(assignment)
    timed = assemble(graph, assignment, timing, us, plan.streams, wait_us)
    placed = (replace(place, start_us=timing.start[place.kernel], end_us=timing.end[place.kernel]) for place in plan.placements)
    return replace(timed, streams=plan.streams, placements=tuple(placed), events=plan.events)


def _difference(planned: PlannedKernel, kernel: Kernel) -> str:
    """Return how a kernel of the graph is not the one that was planned; what the file leaves out is not compared."""
    named, touched = f"kernel {kernel.name!r}", bytes_touched(kernel)
    if planned.launches is not None and planned.launches != kernel.launches:
        one, other = (listed(launches) or "nothing" for launches in (planned.launches, kernel.launches))
        return f"{named} launches {other}, in the plan {one}; leave out all 'launches' to use the plan all the same"
    if planned.bytes is not None and planned.bytes != touched:
        other = "a number of bytes that depends on a dynamic size" if touched is None else f"{touched} bytes"
        text = f"{named} reads and writes {other}, in the plan {planned.bytes}, so its sizes are others"
        return f"{text}; leave out all 'bytes' to use the plan all the same"
    return ""


def _check_stream(planned: PlannedKernel, kernel: Kernel, streams: int) -> None:
    named = f"kernel {kernel.name!r} is on stream {planned.stream}"
    if planned.stream >= streams:
        raise PlanFileError(f"{named}, and with the option streams={streams} they are 0 to {streams - 1}")
    if kernel.on_caller and planned.stream != 0:
        raise PlanFileError(f"{named}, and has to be on the caller's, 0: {kernel.why_on_caller}")
    if kernel.bound_stream not in (None, planned.stream):
        raise PlanFileError(f"{named}, and has to be on stream {kernel.bound_stream}: {kernel.pinned_reason}")


def _events(
    file: PlanFile, graph: KernelGraph, order: Sequence[int], stream_of: Mapping[int, int], ids: Mapping[str, int]
) -> tuple[Event, ...]:
    """Return the events of what the file says kernels wait for; if it does not say, of what they depend on."""
    if not file.places_waits:
        return place_events(graph, order, stream_of)
    position = {kernel: place for place, kernel in enumerate(order)}
    edges = []
    for planned in file.kernels:
        for name in planned.waits or ():
            if name not in ids:
                raise ValueError(f"kernel {planned.name!r} waits for {name!r}, which is no kernel{near(name, list(ids))}")
            if position[ids[name]] >= position[ids[planned.name]]:
                raise ValueError(f"kernel {planned.name!r} waits for {name!r}, which is not enqueued before it")
            edges.append(Edge(ids[name], ids[planned.name], EdgeKind.ORDER))
    return place_events(replace(graph, edges=tuple(edges)), order, stream_of)
