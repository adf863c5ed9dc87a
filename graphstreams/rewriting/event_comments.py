"""Say what each event of a plan is recorded behind, and for what: comments of the wrapper."""

from __future__ import annotations

from collections.abc import Mapping

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.messages import listed, shortened

LONGEST = 160  # characters of a comment


def event_comments(plan: Plan, graph: KernelGraph) -> dict[tuple[int, int | None], str]:
    """Return a comment for each record and wait, by event and the stream that waits, or None for the record.

    It names kernels, and the values that the kernel before the event realizes, in one line of ASCII.
    """
    found: dict[tuple[int, int | None], str] = {}
    for event in plan.events:
        behind = _behind(graph, event.after)
        readers = [_name(graph, wait.kernel) for wait in event.waits]
        found[event.id, None] = _line(f"behind {behind}, for {listed(readers)}")
        for wait in event.waits:
            found[event.id, wait.stream] = _line(f"{_name(graph, wait.kernel)} needs {behind}")
    return found


def event_headings(plan: Plan, graph: KernelGraph, nodes: Mapping[str, tuple[int, int | None]]) -> dict[str, str]:
    """Return for each node of an event its number, its stream and the comment; `nodes` have keys of `event_comments`."""
    comments, recorded = event_comments(plan, graph), {event.id: event.stream for event in plan.events}
    found = {}
    for name, (event, waits) in nodes.items():
        does = f"recorded on stream {recorded[event]}" if waits is None else f"waited for on stream {waits}"
        found[name] = f"event {event}, {does}: {comments[event, waits]}"
    return found


def _behind(graph: KernelGraph, kernel: int) -> str:
    if kernel == FORK:
        return "what the caller's stream did before"
    nodes = graph.kernels[kernel].nodes
    return f"{_name(graph, kernel)} ({listed(nodes)})" if nodes else _name(graph, kernel)


def _name(graph: KernelGraph, kernel: int) -> str:
    return "the join" if kernel == JOIN else graph.kernels[kernel].name


def _line(text: str) -> str:
    # Torch writes a wrapper in the encoding of the platform.
    return shortened(text, LONGEST).encode("ascii", "backslashreplace").decode("ascii")
