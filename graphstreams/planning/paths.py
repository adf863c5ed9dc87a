"""Longest paths through a kernel graph: they bound every plan, rank its kernels and give its times.

Edges point from lower to higher kernel ids, so one sweep over the ids in either direction is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


def bottom_levels(successors: Sequence[Sequence[int]], us: Sequence[float]) -> list[float]:
    """Time in us from the start of each kernel to the end of the graph along the longest path, itself included.

    The "static level" of Adam, Chandy and Dickson, "A comparison of list schedules for parallel processing
    systems", CACM 17(12), 1974.
    """
    remaining = [0.0] * len(us)
    for kernel in reversed(range(len(us))):
        remaining[kernel] = us[kernel] + max((remaining[s] for s in successors[kernel]), default=0.0)
    return remaining


def critical_path(successors: Sequence[Sequence[int]], remaining: Sequence[float]) -> tuple[int, ...]:
    """Kernel ids of one longest path, first to last; of several equally long ones the one with the lowest ids.

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


@dataclass(frozen=True)
class Timing:
    """Earliest start and end of each kernel in us, indexed by kernel id, and the end of the join."""

    start: Sequence[float]
    end: Sequence[float]
    makespan: float


def inputs_ready(
    predecessors: Sequence[int], stream: int, stream_of: Sequence[int], end: Sequence[float], event_us: float
) -> float:
    """When in us a kernel on `stream` may start for its predecessors' sake; each on another stream costs `event_us`."""
    return max((end[p] + (event_us if stream_of[p] != stream else 0.0) for p in predecessors), default=0.0)


def timed(assignment: Assignment, predecessors: Sequence[Sequence[int]], us: Sequence[float], event_us: float) -> Timing:
    """The longest paths through the edges and the order of the streams: fork at 0 us, each wait adds `event_us` us."""
    start, end = [0.0] * len(us), [0.0] * len(us)
    free = {0: 0.0}
    for kernel in assignment.order:
        stream = assignment.stream[kernel]
        inputs = inputs_ready(predecessors[kernel], stream, assignment.stream, end, event_us)
        start[kernel] = max(free.get(stream, event_us), inputs)
        end[kernel] = free[stream] = start[kernel] + us[kernel]
    makespan = max(free.pop(0), max(free.values(), default=-event_us) + event_us)
    return Timing(start, end, makespan)


def enqueue_order(assignment: Assignment, start: Sequence[float], predecessors: Sequence[Sequence[int]]) -> list[int]:
    """The kernels by start, of equal starts stream 0 first, yet never before a predecessor or out of stream order.

    The two differ where kernels take no time: a predecessor on stream 1 may start when its successor on stream 0 does.
    """
    followers: list[list[int]] = [[] for _ in start]
    missing = [len(p) for p in predecessors]
    tails: dict[int, int] = {}
    for kernel in assignment.order:
        for predecessor in predecessors[kernel]:
            followers[predecessor].append(kernel)
        if (tail := tails.get(assignment.stream[kernel])) is not None:
            followers[tail].append(kernel)
            missing[kernel] += 1
        tails[assignment.stream[kernel]] = kernel
    heap = [(start[k], assignment.stream[k], k) for k in assignment.order if not missing[k]]
    heapify(heap)
    order: list[int] = []
    while heap:
        order.append(heappop(heap)[2])
        for kernel in followers[order[-1]]:
            missing[kernel] -= 1
            if not missing[kernel]:
                heappush(heap, (start[kernel], assignment.stream[kernel], kernel))
    return order
