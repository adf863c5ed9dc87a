"""Compute longest paths through a kernel graph: they bound every plan, rank its kernels and give its times.

Edges point from lower to higher kernel ids, so one sweep over the ids in either direction is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import fsum

import networkx as nx

from graphstreams.ir.kernels import Background, KernelGraph

NO_BACKGROUND = Background()


def bottom_levels(
    successors: Sequence[Sequence[int]], us: Sequence[float], background: Background = NO_BACKGROUND
) -> list[float]:
    """Return the us from the start of each kernel to the end of the graph along the longest path, itself included.

    A path does not count a kernel of the `background` that it only has to start.

    The "static level" of Adam, Chandy and Dickson, "A comparison of list schedules for parallel processing
    systems", CACM 17(12), 1974.
    """
    remaining = [0.0] * len(us)
    for kernel in reversed(range(len(us))):
        remaining[kernel] = us[kernel] + max((remaining[s] for s in successors[kernel]), default=0.0)
        if issued := background.issued.get(kernel):
            behind_its_end = max((remaining[s] for s in successors[kernel] if s not in issued), default=0.0)
            remaining[kernel] = max(us[kernel] + behind_its_end, *(remaining[s] for s in issued))
    return remaining


def serial_us(graph: KernelGraph, us: Sequence[float]) -> float:
    """Return the us of a graph on one stream, in program order: the sum of all kernels, but for what runs in the background."""
    background = graph.background()
    if not background.groups:
        return fsum(us)
    kernels = range(len(us))
    return timed(Assignment(kernels, [0] * len(us)), graph.predecessors(), us, 0.0, background).makespan


def occupied_us(graph: KernelGraph, us: Sequence[float]) -> float:
    """Return the us of the kernels that hold their stream while they run, summed."""
    groups = graph.background().groups
    return fsum(time for kernel, time in enumerate(us) if kernel not in groups)


def critical_path(successors: Sequence[Sequence[int]], remaining: Sequence[float]) -> tuple[int, ...]:
    """Return the kernel ids of one longest path, first to last; of several equally long ones the one with the lowest ids.

    `remaining` is what `bottom_levels` returned for the same successors.
    """
    path: list[int] = []
    nexts: Sequence[int] = range(len(remaining))
    while nexts:
        path.append(max(nexts, key=lambda kernel: (remaining[kernel], -kernel)))
        nexts = successors[path[-1]]
    return tuple(path)


@dataclass(frozen=True)
class Assignment:
    """A stream for each kernel, and an order that agrees with the edges and gives the order of each stream."""

    order: Sequence[int]
    stream: Sequence[int]  # indexed by kernel id
    priority: int = 0  # CUDA priority of the aux streams; below 0 their blocks get the GPU before those of the caller's stream

    @property
    def streams(self) -> int:
        """How many streams there are, up to the highest one in use."""
        return 1 + max(self.stream, default=0)

    @property
    def used(self) -> int:
        """How many streams are in use. It is `streams`, unless pinned kernels leave some out."""
        return len(set(self.stream))


def without_gaps(stream: Sequence[int], pinned: Collection[int] = ()) -> list[int]:
    """Return the same streams, numbered without gaps; the lowest, which is the caller's if that is in use, stays the first.

    Those of `pinned` keep their numbers, and the others take the lowest that are left.
    """
    left = (number for number in count() if number not in pinned)
    number = {used: used if used in pinned else next(left) for used in sorted(set(stream))}
    return [number[each] for each in stream]


def path_on_caller(given: Assignment, path: Sequence[int], us: Sequence[float]) -> Assignment:
    """Return the same streams, of which stream 0 is the one that runs `path` for most us, of equals the lowest.

    The others are numbered in the order of their first kernels.
    """
    busy = [0.0] * given.streams
    for kernel in path:
        busy[given.stream[kernel]] += us[kernel]
    number = {busy.index(max(busy)): 0}
    for kernel in given.order:
        number.setdefault(given.stream[kernel], len(number))
    return replace(given, stream=[number[stream] for stream in given.stream])


@dataclass(frozen=True)
class Timing:
    """Earliest start and end of each kernel in us, indexed by kernel id, and the end of the join."""

    start: Sequence[float]
    end: Sequence[float]
    makespan: float


Simulate = Callable[[Assignment], Timing]


def inputs_ready(
    predecessors: Sequence[int], stream: int, stream_of: Sequence[int], end: Sequence[float], event_us: float
) -> float:
    """Return the us at which the inputs of a kernel on `stream` are ready; each from another stream costs `event_us`."""
    return max((end[p] + (event_us if stream_of[p] != stream else 0.0) for p in predecessors), default=0.0)


def timed(
    assignment: Assignment, predecessors: Sequence[Sequence[int]], us: Sequence[float], event_us: float,
    background: Background = NO_BACKGROUND,
) -> Timing:  # fmt: skip
    """Return the longest paths through the edges and the order of the streams, without contention.

    The fork is at 0 us; each wait, fork and join included, adds `event_us` us.
    """
    done: dict[str, float] = {}  # process group -> when its stream has ended what it has so far
    start, end = [0.0] * len(us), [0.0] * len(us)
    free = {0: 0.0}
    for kernel in assignment.order:
        stream = assignment.stream[kernel]
        awaited = background.awaited(kernel, predecessors[kernel])
        inputs = inputs_ready(awaited, stream, assignment.stream, end, event_us)
        start[kernel] = max(free.get(stream, event_us), inputs)
        end[kernel] = free[stream] = start[kernel] + us[kernel]
        if kernel in background.groups:
            free[stream], group = start[kernel], background.groups[kernel]
            end[kernel] = done[group] = max(start[kernel], done.get(group, 0.0)) + us[kernel]
    makespan = max(free.pop(0), max(free.values(), default=-event_us) + event_us)
    return Timing(start, end, makespan)


def enqueue_order(assignment: Assignment, start: Sequence[float], predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Return the kernels by start, of equal starts stream 0 first, yet never before a predecessor or out of stream order.

    The two differ if kernels take no time: a predecessor on stream 1 may start when its successor on stream 0 does.
    """
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(assignment.order)
    graph.add_edges_from((earlier, kernel) for kernel in assignment.order for earlier in predecessors[kernel])
    for stream in set(assignment.stream):
        nx.add_path(graph, (kernel for kernel in assignment.order if assignment.stream[kernel] == stream))
    order = nx.lexicographical_topological_sort(graph, key=lambda kernel: (start[kernel], assignment.stream[kernel], kernel))
    return list(order)
