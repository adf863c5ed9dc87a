"""Write the graph of kernels in the DOT language of Graphviz."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from graphstreams.ir.kernels import EdgeKind, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.reports.colors import stream_color
from graphstreams.reports.tables import us_text


def kernels_dot(graph: KernelGraph, us: Sequence[float], plan: Plan | None = None) -> str:
    """Return a digraph of the kernels and their dependences, one edge a pair.

    With `plan`, kernels have the color of their stream, and the critical path is red. Dashed edges only keep an order.
    """
    streams = plan.stream_of() if plan else {}
    path = plan.critical_path if plan else ()
    critical, steps = frozenset(path), frozenset(pairwise(path))
    lines = [f"digraph {_quoted(graph.name)} {{", '  node [shape=box, style=filled, fontname="Helvetica"];']
    for kernel in graph.kernels:
        told = [kernel.name, f"{us_text(us[kernel.id])} us alone" if kernel.id < len(us) else ""]
        if kernel.id in streams:
            told.append(f"stream {streams[kernel.id]}")
        fill = f", fillcolor={_quoted(stream_color(streams[kernel.id]))}" if kernel.id in streams else ', fillcolor="white"'
        border = ", color=red, penwidth=2" if kernel.id in critical else ""
        lines.append(f"  k{kernel.id} [label={_quoted(chr(10).join(filter(None, told)))}{fill}{border}];")
    kinds: dict[tuple[int, int], list[str]] = {}
    for edge in graph.edges:
        kinds.setdefault((edge.before, edge.after), []).append(f"{edge.kind.value} {edge.storage}".rstrip())
    for pair, why in kinds.items():
        dashed = ", style=dashed" if all(each == EdgeKind.ORDER.value for each in why) else ""
        red = ", color=red, penwidth=2" if pair in steps else ""
        lines.append(f"  k{pair[0]} -> k{pair[1]} [label={_quoted(chr(10).join(why))}{dashed}{red}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """Return a string of DOT: quotes and backslashes are escaped, line ends are `\\n`."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
