"""Write a plan as text: a table with one row for each kernel, and a summary of a few lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tabulate import tabulate

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.ir.threshold import Threshold

ROUNDING = 1e-9  # of sums taken in another order
_HEADERS = ("kernel", "stream", "start", "end", "us", "alone", "waits for")


def plan_table(plan: Plan, graph: KernelGraph, us: Sequence[float]) -> str:
    """Return a table of the kernels in the order in which the host enqueues them, with times in us from the start of the graph.

    `us` has the us of each kernel alone, by id: the column "alone" stands beside "us", its time in the plan. The last column
    names the kernels whose events a kernel waits for, each with its stream, and "fork" for what the caller's stream did before.
    Raises IndexError if `plan` has, or an event of it follows, a kernel that is unknown to `graph` or has no time.
    """
    waits = waited_for(plan, graph)
    rows = [
        (
            p.name, p.stream, us_text(p.start_us), us_text(p.end_us), us_text(p.end_us - p.start_us), us_text(us[p.kernel]),
            ", ".join(waits[p.kernel]),
        )
        for p in plan.placements
    ]  # fmt: skip
    if JOIN in waits:
        rows.append(("join", 0, us_text(plan.streamed_us), us_text(plan.streamed_us), "", "", ", ".join(waits[JOIN])))
    align = ("left", "right", "right", "right", "right", "right", "left")
    return tabulate(rows, headers=_HEADERS, colalign=align if rows else None, disable_numparse=True)


def summary(plan: Plan) -> str:
    """Return what the plan is predicted to gain, in two lines, with times in us."""
    faster = plan.serial_us / plan.streamed_us if plan.streamed_us else 1.0
    waits = sum(len(event.waits) for event in plan.events)
    serial = "in the serial code's order" if plan.streams == 1 and faster > 1 + ROUNDING else "on one"
    return (
        f"predicted: {us_text(plan.streamed_us)} us on {_counted(plan.used, 'stream')}, "
        f"{us_text(plan.serial_us)} us {serial}; speed-up {faster:.2f}\n"
        f"lower bound {us_text(plan.lower_bound_us)} us, critical path {us_text(plan.critical_path_us)} us; "
        f"{_counted(len(plan.events), 'event')}, {_counted(waits, 'wait')} of {us_text(plan.event_us)} us each"
    )


def threshold_text(threshold: Threshold) -> str:
    """Return for how many tokens a graph runs on streams, why, and the predicted times on both sides of the limit."""
    smallest, largest = threshold.smallest, threshold.largest
    if largest is None:
        which = f"streams from {smallest} tokens on" if smallest else "streams at any number of tokens"
    elif largest == 0:
        which = "streams at no number of tokens"
    else:
        which = f"streams from {smallest} to {largest} tokens" if smallest else f"streams up to {largest} tokens"
    shown, at = _telling_sizes(threshold), "predicted at" if threshold.measured else "at"
    times = [
        f"{at} {size} serial {us_text(serial)} us, streamed {us_text(streamed)} us"
        for size, serial, streamed in threshold.curve
        if size in shown
    ]
    size = f"{threshold.symbol}, where {threshold.where}" if threshold.where else threshold.symbol
    return f"{which} ({size}: {threshold.reason})" + (f": {'; '.join(times)}" if times else "")


def _telling_sizes(threshold: Threshold) -> set[int]:
    """Return both sides of each limit; the last size of the curve if there is no upper limit, the best one if none gains."""
    curve, smallest, largest = threshold.curve, threshold.smallest, threshold.largest
    if largest == 0:
        return {size for size, *_ in sorted(curve, key=lambda point: point[2] - point[1])[:1]}
    lower = {smallest - 1, smallest} if smallest else set()
    return lower | ({largest, largest + 1} if largest is not None else {size for size, *_ in curve[-1:]})


def waited_for(plan: Plan, graph: KernelGraph) -> defaultdict[int, list[str]]:
    """Return what each kernel, and JOIN, waits for across streams, such as ["fork", "wq_b (stream 1)"]."""
    waits: defaultdict[int, list[str]] = defaultdict(list)
    for event in plan.events:
        name = "fork" if event.after == FORK else f"{graph.kernels[event.after].name} (stream {event.stream})"
        for wait in event.waits:
            waits[wait.kernel].append(name)
    return waits


def us_text(us: float) -> str:
    """Return a time in us with one decimal, with two below 1 us."""
    return f"{us:.1f}" if us >= 1 or us == 0 else f"{us:.2f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
