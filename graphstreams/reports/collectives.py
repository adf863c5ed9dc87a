"""Tell what runs beside each collective of a plan, and for how long nothing does."""

from __future__ import annotations

from dataclasses import dataclass

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.messages import listed
from graphstreams.reports.relations import Span, union_us
from graphstreams.reports.tables import us_text


@dataclass(frozen=True)
class Overlap:
    """A collective of a plan, by predicted times."""

    name: str
    us: float  # from its start to its end
    beside: tuple[str, ...]  # kernels that run in that time, in the plan's order
    idle_us: float  # in which none of them does

    def __str__(self) -> str:
        beside = f"beside it {listed(self.beside)}" if self.beside else "nothing beside it"
        return f"{self.name}: {us_text(self.us)} us, {beside}; for {us_text(self.idle_us)} us the GPU has nothing else to do"


def overlaps(plan: Plan, graph: KernelGraph) -> list[Overlap]:
    """Return what runs beside each collective. Other collectives do not count. Raises IndexError for an unknown kernel."""
    found = []
    working = [place for place in plan.placements if not graph.kernels[place.kernel].collective]
    for place in plan.placements:
        if graph.kernels[place.kernel].collective == "start":
            start, end = place.start_us, place.end_us
            beside = [other for other in working if other.start_us < end and other.end_us > start]
            covered = union_us(Span(max(o.start_us, start), min(o.end_us, end)) for o in beside)
            found.append(Overlap(place.name, end - start, tuple(o.name for o in beside), max(0.0, end - start - covered)))
    return found
