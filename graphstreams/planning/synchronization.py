"""Place the fewest events and waits that order an assignment of kernels to streams, and check plans.

The order of each stream and the dependences span a partial order. The waits it needs are the edges of its
transitive reduction (Aho, Garey and Ullman, SIAM J. Comput. 1(2), 1972) that run between two streams. The
reduction of an acyclic graph is unique, so no smaller set of waits gives exactly this order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Event, Placement, Plan, Wait


def place_events(graph: KernelGraph, order: Sequence[int], stream_of: Mapping[int, int]) -> tuple[Event, ...]:
    """Return the fewest events and waits that order every edge of `graph`, the fork and the join, by order of recording.

    `order` is the order in which the host enqueues the kernels, a linear extension of the edges; `stream_of` gives
    the stream of each. Raises ValueError if a kernel stands in `order` before one that it depends on.
    """
    clocks = _Clocks(1 + max(stream_of.values(), default=0))
    clocks.enqueue(FORK, 0, ())
    predecessors = graph.predecessors()
    waits: dict[int, list[Wait]] = defaultdict(list)
    last: dict[int, int] = {0: FORK}
    for kernel in order:
        stream = stream_of[kernel]
        producers = predecessors[kernel] if stream in last else [FORK, *predecessors[kernel]]
        for producer in producers:
            if producer not in clocks:
                early, late = graph.kernels[kernel].name, graph.kernels[producer].name
                raise ValueError(f"{early!r} is enqueued before {late!r}, on which it depends")
        for producer in clocks.enqueue(kernel, stream, producers):
            waits[producer].append(Wait(stream, kernel))
        last[stream] = kernel
    for producer in clocks.enqueue(JOIN, 0, [last[s] for s in sorted(last) if s != 0]):
        waits[producer].append(Wait(0, JOIN))
    recorded = [kernel for kernel in (FORK, *order) if kernel in waits]
    return tuple(Event(i, stream_of.get(k, 0), k, tuple(waits[k])) for i, k in enumerate(recorded))


def check_plan(graph: KernelGraph, plan: Plan) -> None:
    """Raise ValueError unless streams and events alone order every edge of `graph`, the fork and the join.

    Works from the definition, with the set of everything ordered before each kernel, and shares nothing with
    `place_events`. Also raises if a kernel is missing, placed twice or unknown, if an event or a wait names
    another stream than its kernel's, or if a wait is enqueued before its event is recorded.
    """
    _check_placements(graph, plan)
    stream_of = plan.stream_of() | {FORK: 0, JOIN: 0}
    producers = _waited_for(graph, plan, stream_of)
    before, tails = _ordered_before(plan.placements, producers)
    for edge in graph.edges:
        if not before[edge.after] >> _bit(edge.before) & 1:
            after, earlier = _named(graph, edge.after, stream_of), _named(graph, edge.before, stream_of)
            raise ValueError(f"{after} is not ordered after {earlier}, a {edge.kind.value} dependence")
    for kernel, stream in stream_of.items():
        if not before[kernel] >> _bit(FORK) & 1 and kernel != FORK:
            named = _named(graph, kernel, stream_of)
            raise ValueError(f"stream {stream} is not forked: {named} is not ordered after the caller's earlier work")
    for stream, kernel in tails.items():
        if not before[JOIN] >> _bit(kernel) & 1:
            raise ValueError(f"stream {stream} is not joined: nothing waits for {_named(graph, kernel, stream_of)}")


class _Clocks:
    """Vector clocks over streams (Fidge 1988, Mattern 1989): what has surely ended on each, as kernels are enqueued."""

    def __init__(self, streams: int) -> None:
        self._at: dict[int, tuple[int, int]] = {}  # kernel -> its stream and its place there, counted from 1
        self._behind: dict[int, list[int]] = {}  # kernel -> how many kernels of each stream have ended once it has
        self._tails = [[0] * streams for _ in range(streams)]

    def __contains__(self, kernel: int) -> bool:
        return kernel in self._at

    def enqueue(self, kernel: int, stream: int, producers: Iterable[int]) -> list[int]:
        """Put `kernel` at the end of `stream`, and return those of `producers` that it has to wait for."""
        clock = list(self._tails[stream])
        latest: dict[int, int] = {}
        for producer in sorted((p for p in producers if not self._ended(p, clock)), key=self._at.__getitem__):
            latest[self._at[producer][0]] = producer
        missing = list(latest.values())
        waits = [p for p in missing if not any(self._ended(p, self._behind[q]) for q in missing if q != p)]
        for producer in waits:
            clock = [max(pair) for pair in zip(clock, self._behind[producer], strict=True)]
        clock[stream] += 1
        self._at[kernel] = (stream, clock[stream])
        self._behind[kernel] = self._tails[stream] = clock
        return waits

    def _ended(self, kernel: int, clock: Sequence[int]) -> bool:
        stream, place = self._at[kernel]
        return clock[stream] >= place


def _check_placements(graph: KernelGraph, plan: Plan) -> None:
    placed = Counter(placement.kernel for placement in plan.placements)
    for placement in plan.placements:
        if not 0 <= placement.kernel < len(graph.kernels):
            raise ValueError(f"the plan places kernel {placement.kernel} ({placement.name!r}), unknown to the graph")
        if placed[placement.kernel] > 1:
            raise ValueError(f"kernel {placement.name!r} is placed twice")
    for kernel in graph.kernels:
        if kernel.id not in placed:
            raise ValueError(f"kernel {kernel.name!r} is missing from the plan")


def _waited_for(graph: KernelGraph, plan: Plan, stream_of: Mapping[int, int]) -> dict[int, list[int]]:
    """Return the kernels whose events each kernel waits for."""
    position = {FORK: -1} | {p.kernel: i for i, p in enumerate(plan.placements)} | {JOIN: len(plan.placements)}
    producers: dict[int, list[int]] = defaultdict(list)
    for event in plan.events:
        _check_stream(graph, stream_of, event.after, event.stream, f"event {event.id} is recorded")
        for wait in event.waits:
            _check_stream(graph, stream_of, wait.kernel, wait.stream, f"the wait for event {event.id} stands")
            if position[event.after] >= position[wait.kernel]:
                # A wait for an event that is not recorded yet returns at once, and orders nothing.
                waiter, recorder = _named(graph, wait.kernel, stream_of), _named(graph, event.after, stream_of)
                raise ValueError(f"{waiter} waits for event {event.id} before {recorder} records it")
            producers[wait.kernel].append(event.after)
    return producers


def _check_stream(graph: KernelGraph, stream_of: Mapping[int, int], kernel: int, stream: int, what: str) -> None:
    if kernel not in stream_of:
        raise ValueError(f"{what} at kernel {kernel}, which the plan does not place")
    if stream_of[kernel] != stream:
        raise ValueError(f"{what} on stream {stream}, but {_named(graph, kernel, stream_of)} is on another")


def _ordered_before(
    placements: Sequence[Placement], producers: Mapping[int, Sequence[int]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return the bit set of all that is ordered before each kernel, and the last kernel of each stream."""
    before = {FORK: 0}
    tails = {0: FORK}
    for kernel, stream in [*((p.kernel, p.stream) for p in placements), (JOIN, 0)]:
        seen = 0
        for earlier in [*producers.get(kernel, ()), *([tails[stream]] if stream in tails else [])]:
            seen |= before[earlier] | 1 << _bit(earlier)
        before[kernel] = seen
        tails[stream] = kernel
    del tails[0]
    return before, tails


def _bit(kernel: int) -> int:
    return kernel - FORK


def _named(graph: KernelGraph, kernel: int, stream_of: Mapping[int, int]) -> str:
    if kernel in (FORK, JOIN):
        return "the caller's earlier work" if kernel == FORK else "the join"
    return f"kernel {graph.kernels[kernel].name!r} (stream {stream_of[kernel]})"
