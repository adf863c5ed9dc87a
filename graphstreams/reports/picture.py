"""The picture of a plan as plain data: lanes with boxes on an axis of us, arrows between them, a card for each kernel.

`report.html` and `plan.svg` draw it and add nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphstreams.ir.kernels import Access, KernelGraph, value_of
from graphstreams.ir.module_paths import path_of
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.reports.reasons import why_here, why_not_beside, why_one_unit
from graphstreams.reports.relations import Relations, relations, serial_spans
from graphstreams.reports.tables import waited_for

SERIAL, STREAM, COLLECTIVES = "serial", "stream", "collectives"  # kinds of lanes


@dataclass(frozen=True)
class Box:
    """One kernel in a lane. What it takes over `alone_us` is the work of its neighbours."""

    kernel: int
    start_us: float
    end_us: float
    alone_us: float
    stream: int  # of the plan, in the serial lane too
    critical: bool = False  # whether it is on the critical path


@dataclass(frozen=True)
class Lane:
    """What runs one after the other: the serial code, a stream, or what is on the streams of process groups."""

    name: str
    kind: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Arrow:
    """A wait for an event, from the end of the kernel behind which it is recorded to the start of the one that waits."""

    event: int
    source: int  # a kernel id, or FORK
    target: int  # a kernel id, or JOIN
    source_lane: int  # index in the picture's lanes
    target_lane: int
    start_us: float
    end_us: float


@dataclass(frozen=True)
class Card:
    """What there is to know of one kernel."""

    kernel: int
    name: str
    kind: str
    stream: int
    start_us: float
    end_us: float
    alone_us: float
    launches: tuple[str, ...]
    modules: tuple[str, ...]  # the paths of those that it computes something of
    parameters: tuple[str, ...]
    ops: tuple[str, ...]
    bytes_read: int | None  # None if a dynamic size is not known
    bytes_written: int | None
    beside: tuple[tuple[str, float], ...]  # names, and us that both run
    waits: tuple[str, ...]  # events, as in the table
    needs: tuple[str, ...]  # dependences, such as "wq_b (RAW buf3)"
    why_here: str
    why_not_beside: str
    why_one_unit: str
    critical: bool
    code: str = ""  # of its region in the rewritten graph, or in the serial one if there is none
    wrapper: str = ""  # the lines that launch it and wait for it, with their numbers


@dataclass(frozen=True)
class Picture:
    """A plan, ready to be drawn."""

    name: str
    lanes: tuple[Lane, ...]
    arrows: tuple[Arrow, ...]
    cards: tuple[Card, ...]  # by kernel id
    end_us: float  # of the longest lane


NOTHING = Picture("", (), (), (), 0.0)


def picture(
    plan: Plan, graph: KernelGraph, us: Sequence[float], code: Mapping[int, str] | None = None,
    wrapper: Mapping[int, str] | None = None,
) -> Picture:  # fmt: skip
    """Return the picture of a plan. `us` has the us of each kernel alone, `code` and `wrapper` the text of kernels.

    Raises ValueError if the numbers of kernels differ.
    """
    if not len(plan.placements) == len(graph.kernels) == len(us):
        raise ValueError(f"{len(plan.placements)} kernels are placed, {len(graph.kernels)} read and {len(us)} timed")
    related = relations(plan, graph)
    lanes = _lanes(related, us)
    cards = _cards(related, us, code or {}, wrapper or {})
    ends = [box.end_us for lane in lanes for box in lane.boxes]
    return Picture(plan.name, lanes, tuple(_arrows(related, lanes)), cards, max([plan.streamed_us, *ends]))


def _lanes(related: Relations, us: Sequence[float]) -> tuple[Lane, ...]:
    plan, background = related.plan, related.graph.background().groups
    critical = frozenset(plan.critical_path)
    serial = [
        Box(kernel, span.start_us, span.end_us, us[kernel], related.places[kernel].stream)
        for kernel, span in enumerate(serial_spans(related.graph, us))
    ]
    placed = [Box(p.kernel, p.start_us, p.end_us, us[p.kernel], p.stream, p.kernel in critical) for p in plan.placements]
    lanes = [Lane("serial", SERIAL, tuple(box for box in serial if box.kernel not in background))]
    if background:
        lanes.append(Lane("serial: collectives", COLLECTIVES, tuple(box for box in serial if box.kernel in background)))
    for stream in sorted({0, *(box.stream for box in placed)}):
        own = tuple(box for box in placed if box.stream == stream and box.kernel not in background)
        lanes.append(Lane(f"stream {stream}" + " (caller)" * (stream == 0), STREAM, own))
    if background:
        lanes.append(Lane("collectives", COLLECTIVES, tuple(box for box in placed if box.kernel in background)))
    return tuple(lanes)


def _arrows(related: Relations, lanes: Sequence[Lane]) -> Iterable[Arrow]:
    streamed = [number for number, lane in enumerate(lanes) if not lane.name.startswith(SERIAL)]
    lane_of = {box.kernel: number for number in streamed for box in lanes[number].boxes}
    callers, places = streamed[0], related.places
    for event in related.plan.events:
        source = (callers, 0.0) if event.after == FORK else (lane_of[event.after], places[event.after].end_us)
        for wait in event.waits:
            target = (callers, related.plan.streamed_us)
            if wait.kernel != JOIN:
                target = (lane_of[wait.kernel], places[wait.kernel].start_us)
            yield Arrow(event.id, event.after, wait.kernel, source[0], target[0], source[1], target[1])


def _cards(related: Relations, us: Sequence[float], code: Mapping[int, str], wrapper: Mapping[int, str]) -> tuple[Card, ...]:
    graph, waits = related.graph, waited_for(related.plan, related.graph)
    critical = frozenset(related.plan.critical_path)
    needs = needed_by(graph)
    return tuple(
        Card(
            kernel=kernel.id,
            name=kernel.name,
            kind=kernel.kind,
            stream=place.stream,
            start_us=place.start_us,
            end_us=place.end_us,
            alone_us=us[kernel.id],
            launches=kernel.launches,
            modules=tuple(path for module in kernel.modules if (path := path_of(module))),
            parameters=kernel.parameters,
            ops=kernel.ops,
            bytes_read=bytes_of(kernel.reads, graph.sizes),
            bytes_written=bytes_of(kernel.writes, graph.sizes),
            beside=tuple((graph.kernels[other].name, span.us) for other, span in related.beside[kernel.id]),
            waits=tuple(waits.get(kernel.id, ())),
            needs=needs[kernel.id],
            why_here=why_here(related, kernel.id),
            why_not_beside=why_not_beside(related, kernel.id),
            why_one_unit=why_one_unit(kernel),
            critical=kernel.id in critical,
            code=code.get(kernel.id, ""),
            wrapper=wrapper.get(kernel.id, ""),
        )
        for kernel, place in zip(graph.kernels, related.places, strict=True)
    )


def needed_by(graph: KernelGraph) -> list[tuple[str, ...]]:
    """Return the dependences of each kernel in words, such as "wq_b (RAW buf3, WAR arg1)", by kernel id."""
    found: list[dict[int, list[str]]] = [{} for _ in graph.kernels]
    for edge in graph.edges:
        found[edge.after].setdefault(edge.before, []).append(f"{edge.kind.value} {edge.storage}".rstrip())
    return [tuple(f"{graph.kernels[before].name} ({', '.join(why)})" for before, why in sorted(own.items())) for own in found]


def bytes_of(accesses: Sequence[Access], sizes: Mapping[str, int]) -> int | None:
    """Return how many bytes accesses touch at the example sizes; None if a dynamic size has none."""
    try:
        return round(sum(value_of(access.bytes, sizes) for access in accesses))
    except ValueError:
        return None
