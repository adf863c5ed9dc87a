"""Write a plan as a trace for Perfetto or chrome://tracing, in the Trace Event Format, with times in us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.reports.tables import waited_for

_Record = dict[str, Any]

_STREAMED, _SERIAL = 1, 2  # process ids
_COLLECTIVES = 1000  # the row of what runs on streams of process groups
_LEAST_US = 0.001  # the resolution of Perfetto


def timeline(plan: Plan, graph: KernelGraph) -> dict[str, Any]:
    """Return the trace of two processes: the plan with a row for each stream and an arrow for each wait, and one stream.

    `json.dump` writes the result. Raises IndexError if `plan` names a kernel unknown to `graph`.
    """
    waits = waited_for(plan, graph)
    streams = sorted({0} | {p.stream for p in plan.placements})
    collectives = {_COLLECTIVES: "collectives"} if graph.has_collectives() else {}
    records = [
        *_named(
            _STREAMED,
            "streamed (predicted)",
            {s: f"stream {s}" + " (the caller's)" * (s == 0) for s in streams} | collectives,
        ),
        *_named(_SERIAL, "serial (predicted)", {0: "one stream"} | collectives),
        *_streamed(plan, graph, waits),
        *_serial(plan, graph),
        *_arrows(plan),
    ]
    return {"displayTimeUnit": "ns", "otherData": {"graph": plan.name}, "traceEvents": records}


def _named(process: int, name: str, rows: Mapping[int, str]) -> Iterator[_Record]:
    yield _record("M", process, 0, "process_name", args={"name": name})
    yield _record("M", process, 0, "process_sort_index", args={"sort_index": process})
    for row, label in rows.items():
        yield _record("M", process, row, "thread_name", args={"name": label})
        yield _record("M", process, row, "thread_sort_index", args={"sort_index": row})


def _streamed(plan: Plan, graph: KernelGraph, waits: Mapping[int, Sequence[str]]) -> Iterator[_Record]:
    for p in plan.placements:
        args = _args(graph.kernels[p.kernel]) | {"waits": list(waits.get(p.kernel, ()))}
        row = _COLLECTIVES if graph.kernels[p.kernel].collective == "start" else p.stream
        yield _slice(_STREAMED, row, p.name, p.start_us, p.end_us, args)
    if JOIN in waits:
        yield _slice(_STREAMED, 0, "join", plan.streamed_us, plan.streamed_us, {"waits": list(waits[JOIN])})


def _serial(plan: Plan, graph: KernelGraph) -> Iterator[_Record]:
    background, predecessors = graph.background(), graph.predecessors()
    now, done = 0.0, dict[int, float]()  # kernel id of a collective -> its end
    for p in sorted(plan.placements, key=lambda p: p.kernel):
        awaited = background.awaited(p.kernel, predecessors[p.kernel]) if done else ()
        start = max([now, *(done[before] for before in awaited if before in done)])
        end, row = start + (p.end_us - p.start_us), 0
        if p.kernel in background.groups:
            done[p.kernel], now, row = end, start, _COLLECTIVES
        else:
            now = end
        yield _slice(_SERIAL, row, p.name, start, end, _args(graph.kernels[p.kernel]))


def _args(kernel: Kernel) -> _Record:
    return {"kernel": kernel.id, "launches": list(kernel.launches), "parameters": list(kernel.parameters)}


def _slice(process: int, row: int, name: str, start: float, end: float, args: _Record) -> _Record:
    ts, dur = round(start, 6), round(end - start, 6)
    return _record("X", process, row, name, cat="kernel", ts=ts, dur=dur, args=args)


def _arrows(plan: Plan) -> Iterator[_Record]:
    """Yield a flow from slice to slice for each wait, but none from the fork, which has no slice to start from."""
    placed = {p.kernel: p for p in plan.placements}
    waits = [(event, wait) for event in plan.events if event.after != FORK for wait in event.waits]
    for number, (event, wait) in enumerate(waits):
        source = placed[event.after]
        # A flow belongs to the slice around its time, and the end of a slice lies outside it.
        leaves = source.end_us - min(_LEAST_US, (source.end_us - source.start_us) / 2)
        arrives = plan.streamed_us if wait.kernel == JOIN else placed[wait.kernel].start_us
        name, flow = f"event {event.id}", {"cat": "event", "id": number}
        yield _record("s", _STREAMED, event.stream, name, **flow, ts=round(leaves, 6))
        yield _record("f", _STREAMED, wait.stream, name, **flow, ts=round(arrives, 6), bp="e")


def _record(phase: str, process: int, row: int, name: str, **fields: Any) -> _Record:
    return {"ph": phase, "pid": process, "tid": row, "name": name, **fields}
