"""Try every plan of a tiny graph, because small changes can miss the shortest one if no single change leads towards it."""

from __future__ import annotations

from collections.abc import Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.planning.neighborhood import EQUAL_US, STREAM_WORTH, SearchSpace
from graphstreams.planning.paths import Assignment

MOST_KERNELS, MOST_PLANS = 8, 1600  # of a graph that is searched so

Rows = tuple[tuple[int, ...], ...]  # what each stream runs, in order, the caller's first; those that are not pinned sorted


def exhaustive_search(space: SearchSpace, seed: int) -> Assignment | None:
    """Return the best of all assignments of a tiny graph, None for other graphs; of equals a list schedule, if one is."""
    if space.streams == 1 or not space.free or len(space.us) > MOST_KERNELS:
        return None
    every = every_assignment(space.graph, space.streams, MOST_PLANS)
    return _shortest(space, [*space.initial, *every]) if every is not None else None


def _shortest(space: SearchSpace, assignments: Sequence[Assignment]) -> Assignment:
    """Return the shortest assignment whose streams are each worth it; of equals the earlier one."""
    shortest: dict[int, tuple[float, Assignment]] = {}  # by the number of streams
    for assignment in assignments:
        used, makespan = assignment.used, space.makespan(assignment)
        if used not in shortest or makespan < shortest[used][0] - EQUAL_US:
            shortest[used] = makespan, assignment
    used = min(shortest, key=lambda count: (round(shortest[count][0], 9), count))
    while used > 2 and used - 1 in shortest and shortest[used - 1][0] <= shortest[used][0] * (1 + STREAM_WORTH):
        used -= 1
    return shortest[used][1]


def every_assignment(graph: KernelGraph, streams: int, most: int) -> list[Assignment] | None:
    """Return each spread of the kernels over up to `streams` streams in each order that the edges allow.

    Assignments that differ only in the numbers of the aux streams, or in the order between streams, count as one. Kernels that
    have to be on a certain stream are there, and such a stream keeps its number. Five kernels without edges have 1,045
    assignments. The result is None if there are more than `most`, complete ones or beginnings of the same length.
    """
    predecessors = [frozenset(own) for own in graph.predecessors()]
    bound, pinned = [kernel.bound_stream for kernel in graph.kernels], graph.pinned_streams()
    found: dict[Rows, tuple[int, ...]] = {((),) * streams: ()}
    for left in reversed(range(len(bound))):
        longer: dict[Rows, tuple[int, ...]] = {}
        for rows, order in found.items():
            for kernel in set(range(len(bound))).difference(order):
                if not predecessors[kernel].issubset(order):
                    continue
                own = bound[kernel]
                for stream in range(streams) if own is None else (own,):
                    added = _added(rows, stream, kernel, pinned)
                    # A complete plan has kernels on the caller's stream: if not, another stream might as well be that one.
                    if left or added[0] or pinned:
                        longer.setdefault(added, (*order, kernel))
            if len(longer) > most:
                return None
        found = longer
    return [_assignment(rows, order) for rows, order in found.items()]


def _added(rows: Rows, stream: int, kernel: int, pinned: frozenset[int]) -> Rows:
    longer = [(*row, kernel) if number == stream else row for number, row in enumerate(rows)]
    # Which of the other aux streams is which does not matter.
    others = iter(sorted((row for number, row in enumerate(longer) if number and number not in pinned), reverse=True))
    return tuple(next(others) if number and number not in pinned else row for number, row in enumerate(longer))


def _assignment(rows: Rows, order: tuple[int, ...]) -> Assignment:
    stream_of = {kernel: number for number, row in enumerate(rows) for kernel in row}
    return Assignment(order, [stream_of[kernel] for kernel in range(len(order))])
