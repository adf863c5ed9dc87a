"""Tell how the kernels of a plan stand to each other: what each needs, what comes before it, what runs beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphstreams.ir.kernels import EdgeKind, KernelGraph
from graphstreams.ir.plan import Placement, Plan
from graphstreams.planning.paths import Assignment, timed


@dataclass(frozen=True)
class Span:
    """A time in us, from the start of the graph."""

    start_us: float
    end_us: float

    @property
    def us(self) -> float:
        """How long it is."""
        return self.end_us - self.start_us


@dataclass(frozen=True)
class Relations:
    """The kernels of one plan, by kernel id."""

    plan: Plan
    graph: KernelGraph
    places: Sequence[Placement]
    awaited: Sequence[Sequence[int]]  # kernels whose end each needs
    on_stream_before: Sequence[int | None]  # the kernel right before it on its stream, without collectives that run elsewhere
    beside: Sequence[Sequence[tuple[int, Span]]]  # the kernels that run while each does, and when, by start
    related: Sequence[int]  # bit k: kernel k has to come before it or after it
    related_by_storage: Sequence[int]  # the same, without edges that only keep an order

    def names(self, kernels: Iterable[int]) -> list[str]:
        """Return the names of kernels."""
        return [self.graph.kernels[kernel].name for kernel in kernels]

    def ready_us(self, kernel: int) -> float:
        """Return when all that a kernel needs has ended, without what a wait takes."""
        return max((self.places[before].end_us for before in self.awaited[kernel]), default=0.0)

    def free(self, kernel: int) -> list[int]:
        """Return the kernels that need not come before or after `kernel`, ascending."""
        return self._others(kernel, self.related)

    def held_by_order(self, kernel: int) -> list[int]:
        """Return the kernels that come before or after `kernel` for the sake of an order alone, ascending."""
        return [other for other in self._others(kernel, self.related_by_storage) if self.related[kernel] >> other & 1]

    def _others(self, kernel: int, related: Sequence[int]) -> list[int]:
        return [other for other in range(len(self.places)) if other != kernel and not related[kernel] >> other & 1]


def relations(plan: Plan, graph: KernelGraph) -> Relations:
    """Return how the kernels of a plan stand to each other. Raises KeyError if the plan lacks a kernel of the graph."""
    placed = {place.kernel: place for place in plan.placements}
    background, predecessors = graph.background(), graph.predecessors()
    before: list[int | None] = [None] * len(graph.kernels)
    last: dict[int, int] = {}
    for place in plan.placements:
        before[place.kernel] = last.get(place.stream)
        if place.kernel not in background.groups:
            last[place.stream] = place.kernel
    by_storage = [(edge.before, edge.after) for edge in graph.edges if edge.kind is not EdgeKind.ORDER]
    return Relations(
        plan=plan,
        graph=graph,
        places=[placed[kernel.id] for kernel in graph.kernels],
        awaited=[background.awaited(kernel, own) for kernel, own in enumerate(predecessors)],
        on_stream_before=before,
        beside=_beside(plan.placements),
        related=_related(len(graph.kernels), [(edge.before, edge.after) for edge in graph.edges]),
        related_by_storage=_related(len(graph.kernels), by_storage),
    )


def serial_spans(graph: KernelGraph, us: Sequence[float]) -> list[Span]:
    """Return when each kernel runs on one stream, in program order and in its own time, by kernel id.

    `us` has the us of each kernel alone. The last end is the plan's `serial_us`.
    """
    kernels, background = range(len(us)), graph.background()
    timing = timed(Assignment(kernels, [0] * len(us)), graph.predecessors(), us, 0.0, background)
    # A collective that waits for another of its group has not begun yet.
    starts = [timing.end[k] - us[k] if k in background.groups else timing.start[k] for k in kernels]
    return [Span(start, end) for start, end in zip(starts, timing.end, strict=True)]


def union_us(spans: Iterable[Span]) -> float:
    """Return how much time spans cover together."""
    covered, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: (span.start_us, span.end_us)):
        covered += max(0.0, span.end_us - max(span.start_us, until))
        until = max(until, span.end_us)
    return covered


def _beside(placements: Sequence[Placement]) -> list[list[tuple[int, Span]]]:
    """Return, by kernel id, the kernels that run while each does, by start, and when both do."""
    found: list[list[tuple[int, Span]]] = [[] for _ in placements]
    running: list[Placement] = []
    for place in sorted(placements, key=lambda place: (place.start_us, place.kernel)):
        running = [other for other in running if other.end_us > place.start_us]
        for other in running if place.end_us > place.start_us else ():
            both = Span(place.start_us, min(place.end_us, other.end_us))
            found[place.kernel].append((other.kernel, both))
            found[other.kernel].append((place.kernel, both))
        running.append(place)
    return found


def _related(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Return the ancestors and descendants of each kernel as bits. Edges point from lower to higher ids."""
    before, after = [0] * count, [0] * count
    ordered = sorted(edges, key=lambda edge: edge[1])
    for source, target in ordered:
        before[target] |= before[source] | 1 << source
    for source, target in sorted(ordered, reverse=True):
        after[source] |= after[target] | 1 << target
    return [one | other for one, other in zip(before, after, strict=True)]
