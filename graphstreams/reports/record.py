"""Write a plan and its kernels as entries of `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.placement_rules import paths_of
from graphstreams.ir.plan import FORK, Plan
from graphstreams.reports.picture import bytes_of
from graphstreams.reports.reasons import why_here, why_not_beside
from graphstreams.reports.relations import relations

VERSION = 1  # of what `report.json` holds; a key that is removed, or means something else, makes a new one


def regions(plan: Plan, graph: KernelGraph, us: Sequence[float]) -> list[dict[str, Any]]:
    """Return one entry for each kernel, in the order in which the host enqueues them. `us` has the us of each alone."""
    related, waits = relations(plan, graph), _waits(plan, graph)
    found = []
    for place in plan.placements:
        kernel = graph.kernels[place.kernel]
        found.append({
            "name": kernel.name,
            "kernel": kernel.id,
            "stream": place.stream,
            "start_us": round(place.start_us, 3),
            "end_us": round(place.end_us, 3),
            "alone_us": round(us[kernel.id], 3),
            "kind": kernel.kind,
            "launches": list(kernel.launches),
            "parameters": list(kernel.parameters),
            "modules": paths_of(kernel),
            "nodes": list(kernel.nodes),
            "bytes_read": bytes_of(kernel.reads, graph.sizes),
            "bytes_written": bytes_of(kernel.writes, graph.sizes),
            "exclusive": kernel.exclusive,
            "exclusive_reason": kernel.exclusive_reason,
            "joined": kernel.joined,
            "waits": waits.get(kernel.id, []),
            "beside": [graph.kernels[other].name for other, _ in related.beside[kernel.id]],
            "why_here": why_here(related, kernel.id),
            "why_not_beside": why_not_beside(related, kernel.id),
        })  # fmt: skip
    return found


def edges(graph: KernelGraph) -> list[dict[str, Any]]:
    """Return one entry for each dependence."""
    return [{"before": e.before, "after": e.after, "kind": e.kind.value, "storage": e.storage} for e in graph.edges]


def _waits(plan: Plan, graph: KernelGraph) -> dict[int, list[dict[str, Any]]]:
    """Return the events that each kernel waits for, each with the kernel behind which it is recorded, or -1 for the fork."""
    found: dict[int, list[dict[str, Any]]] = {}
    for event in plan.events:
        name = "fork" if event.after == FORK else graph.kernels[event.after].name
        for wait in event.waits:
            entry = {"event": event.id, "after": event.after, "name": name, "stream": event.stream}
            found.setdefault(wait.kernel, []).append(entry)
    return found
