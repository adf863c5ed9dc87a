"""Every plan of a tiny graph: small changes of one plan can miss the shortest, for no single one of them leads towards it."""

from __future__ import annotations

from graphstreams.ir.kernels import KernelGraph
from graphstreams.planning.paths import Assignment

Rows = tuple[tuple[int, ...], ...]  # what each stream runs, in order, the caller's first; the others sorted


def every_assignment(graph: KernelGraph, streams: int, most: int) -> list[Assignment] | None:
    """Each spread of the kernels over up to `streams` streams in each order that the edges allow.

    Two that differ in the numbers of the aux streams or in the order between streams are one. Kernels that have to be on the
    caller's stream are there. Five kernels without edges have 1,045. None if there are more than `most`, whole ones or
    beginnings of the same length.
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
                    # A whole plan leaves no kernels to the caller's stream only if another stream might as well be it.
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
