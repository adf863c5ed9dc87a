"""Try every plan of a tiny graph, because small changes can miss the shortest one if no single change leads towards it."""

from __future__ import annotations

from collections.abc import Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.planning.neighborhood import EQUAL_US, STREAM_WORTH, SearchSpace
from graphstreams.planning.paths import Assignment

MOST_KERNELS, MOST_PLANS = 8, 1600  # of a graph that is searched so

Rows = tuple[tuple[int, ...], ...]  # what each stream runs, in order, the caller's first; the others sorted


def exhaustive_search(space: SearchSpace, seed: int) -> Assignment | None:
    """Return the best of all assignments of a tiny graph, None for other graphs; of equals a list schedule, if one is."""
    if space.streams == 1 or not space.free or len(space.us) > MOST_KERNELS:
        return None
    every = every_assignment(space.graph, space.streams, MOST_PLANS)
    return _shortest(space, [*space.initial, *every]) if every is not None else None


def _shortest(space: SearchSpace, assignments: Sequence[Assignment]) -> Assignment:
    """Return the shortest assignment whose streams are each worth it; of equals the earlier one."""
    shortest: dict[int, tuple[float, Assignment]] = {}  # by the number of streams, none of which may be missing
    for assignment in assignments:
        used, makespan = assignment.streams, space.makespan(assignment)
        if used not in shortest or makespan < shortest[used][0] - EQUAL_US:
            shortest[used] = makespan, assignment
    used = min(shortest, key=lambda count: (round(shortest[count][0], 9), count))
    while used > 2 and shortest[used - 1][0] <= shortest[used][0] * (1 + STREAM_WORTH):
        used -= 1
    return shortest[used][1]


def every_assignment(graph: KernelGraph, streams: int, most: int) -> list[Assignment] | None:
    """Return each spread of the kernels over up to `streams` streams in each order that the edges allow.

    Assignments that differ only in the numbers of the aux streams, or in the order between streams, count as one. Kernels that
    have to be on the caller's stream are there. Five kernels without edges have 1,045 assignments. The result is None if there
    are more than `most`, complete ones or beginnings of the same length.
    """
    predecessors = [frozenset(own) for own in graph.predecessors()]
    on_caller = [kernel.on_caller for kernel in graph.kernels]
    found: dict[Rows, tuple[int, ...]] = {((),) * streams: ()}
    for left in reversed(range(len(on_caller))):
        longer: dict[Rows, tuple[int, ...]] = {}
        for rows, order in found.items():
            for kernel in set(range(len(on_caller))).difference(order):
                if not predecessors[kernel].issubset(order):
                    continue
                for stream in range(1 if on_caller[kernel] else streams):
                    added = _added(rows, stream, kernel)
                    # A complete plan has kernels on the caller's stream: if not, another stream might as well be that one.
                    if left or added[0]:
                        longer.setdefault(added, (*order, kernel))
            if len(longer) > most:
                return None
        found = longer
    return [_assignment(rows, order) for rows, order in found.items()]


def _added(rows: Rows, stream: int, kernel: int) -> Rows:
    longer = [(*row, kernel) if number == stream else row for number, row in enumerate(rows)]
    return (longer[0], *sorted(longer[1:], reverse=True))


def _assignment(rows: Rows, order: tuple[int, ...]) -> Assignment:
    stream_of = {kernel: number for number, row in enumerate(rows) for kernel in row}
    return Assignment(order, [stream_of[kernel] for kernel in range(len(order))])
