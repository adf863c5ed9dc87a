"""Write a plan as a trace for Perfetto or chrome://tracing, in the Trace Event Format, with times in us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.reports.relations import serial_spans
from graphstreams.reports.tables import waited_for

_Record = dict[str, Any]

_STREAMED, _SERIAL = 1, 2  # process ids
_COLLECTIVES = 1000  # the row of what runs on streams of process groups
_LEAST_US = 0.001  # the resolution of Perfetto


def timeline(plan: Plan, graph: KernelGraph, us: Sequence[float]) -> dict[str, Any]:
    """Return the trace of two processes: the plan with a row for each stream and an arrow for each wait, and one stream.

    `us` has the us of each kernel alone, by id: the second process shows these, and ends at the plan's `serial_us`. `json.dump`
    writes the result. Raises IndexError if `plan` names a kernel that is unknown to `graph` or has no time.
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
        *_streamed(plan, graph, us, waits),
        *_serial(graph, us),
        *_arrows(plan),
    ]
    return {"displayTimeUnit": "ns", "otherData": {"graph": plan.name}, "traceEvents": records}


def _named(process: int, name: str, rows: Mapping[int, str]) -> Iterator[_Record]:
    yield _record("M", process, 0, "process_name", args={"name": name})
    yield _record("M", process, 0, "process_sort_index", args={"sort_index": process})
    for row, label in rows.items():
        yield _record("M", process, row, "thread_name", args={"name": label})
        yield _record("M", process, row, "thread_sort_index", args={"sort_index": row})


def _streamed(plan: Plan, graph: KernelGraph, us: Sequence[float], waits: Mapping[int, Sequence[str]]) -> Iterator[_Record]:
    for p in plan.placements:
        args = _args(graph.kernels[p.kernel], us) | {"waits": list(waits.get(p.kernel, ()))}
        row = _COLLECTIVES if graph.kernels[p.kernel].collective == "start" else p.stream
        yield _slice(_STREAMED, row, p.name, p.start_us, p.end_us, args)
    if JOIN in waits:
        yield _slice(_STREAMED, 0, "join", plan.streamed_us, plan.streamed_us, {"waits": list(waits[JOIN])})


def _serial(graph: KernelGraph, us: Sequence[float]) -> Iterator[_Record]:
    for kernel, span in zip(graph.kernels, serial_spans(graph, us), strict=True):
        row = _COLLECTIVES if kernel.collective == "start" else 0
        yield _slice(_SERIAL, row, kernel.name, span.start_us, span.end_us, _args(kernel, us))


def _args(kernel: Kernel, us: Sequence[float]) -> _Record:
    alone = round(us[kernel.id], 6)
    return {
        "kernel": kernel.id, "alone_us": alone, "launches": list(kernel.launches), "parameters": list(kernel.parameters),
    }  # fmt: skip


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
