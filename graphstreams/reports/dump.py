"""Write a graph as readable FX code, each region headed by its stream, kernel, cost and what it waits for."""

from __future__ import annotations

from torch import fx

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.reports.tables import us_text, waited_for
from graphstreams.rewriting.regions import KERNEL


def readable_regions(module: fx.GraphModule, graph: KernelGraph, plan: Plan) -> str:
    """Return the code of a rewritten graph, with a heading above each region."""
    headings = _headings(graph, plan)
    kernels = {node.name: node.meta.get(KERNEL) for node in module.graph.nodes}
    lines = []
    for line in module.print_readable(print_output=False).splitlines():
        # The name that a line assigns tells whose region it belongs to.
        name = line.strip().split(":", 1)[0].split(" ", 1)[0]
        kernel = kernels.get(name) if line.startswith("        ") else None
        if kernel in headings:
            lines += ["", *(f"        # {text}" for text in headings.pop(kernel))]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _headings(graph: KernelGraph, plan: Plan) -> dict[int | None, list[str]]:
    waits = waited_for(plan, graph)
    headings: dict[int | None, list[str]] = {}
    for place in plan.placements:
        kernel = graph.kernels[place.kernel]
        text = [f"==== {kernel.name}: stream {place.stream}, {us_text(place.end_us - place.start_us)} us"]
        text.append(f"     launches {', '.join(kernel.launches) or 'nothing'}")
        if kernel.parameters:
            text.append(f"     reads {', '.join(kernel.parameters)}")
        if waits[kernel.id]:
            text.append(f"     waits for {', '.join(waits[kernel.id])}")
        headings[kernel.id] = text
    return headings
