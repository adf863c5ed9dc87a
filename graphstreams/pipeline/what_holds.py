"""Tell in words what keeps the kernels of a graph from gaining side by side: its longest path, and the kernels that make it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphstreams.ir.kernels import EdgeKind, Kernel, KernelGraph
from graphstreams.messages import listed
from graphstreams.planning.paths import bottom_levels, critical_path, serial_us

CHAIN = 1 - 1e-9  # of the serial time: a path that takes as much leaves no kernel beside it


def longest_path_us(graph: KernelGraph, us: Sequence[float]) -> float:
    """Return the us of the longest path of kernels, each of which takes `us`: no plan is shorter."""
    return max(bottom_levels(graph.successors(), us, graph.background()), default=0.0)


def what_holds(graph: KernelGraph, us: Sequence[float], min_gain: float) -> str:
    """Return why a graph whose kernels take `us` gains little, in a clause that names kernels; empty if no times are known.

    Shares are of the serial time. `min_gain` is the share that a plan has to save.
    """
    if all(kernel.kind == "none" for kernel in graph.kernels):
        return "it has no kernels"
    if len(graph.kernels) == 1:
        return _alone(graph.kernels[0])
    serial = serial_us(graph, us)
    if not serial:
        return ""
    successors = graph.successors()
    path = critical_path(successors, bottom_levels(successors, us, graph.background()))
    share = longest_path_us(graph, us) / serial
    if bound := _bound(graph, us, max(share, 1 - min_gain)):
        return bound
    if share >= CHAIN and any(us[kernel] for kernel in set(range(len(us))).difference(path)):
        text = "what its longest path leaves runs beside a collective in the serial code already, the longest of the path"
        return f"{text} {_longest(graph, us, path)}" + _exclusive(graph, us, share)
    if share >= CHAIN:
        text = f"its {len(graph.kernels)} kernels form one chain, the longest of them {_longest(graph, us, path)}"
        return text + _exclusive(graph, us, share)
    text = f"its longest path of kernels takes {share:.1%} of the serial time, the longest of them {_longest(graph, us, path)}"
    if share <= 1 - min_gain:
        beside = set(range(len(us))).difference(path)
        text += f", and those beside it, the longest {_longest(graph, us, beside)}, share the GPU with it"
    return text + _exclusive(graph, us, share)


def _alone(kernel: Kernel) -> str:
    count = len(kernel.launches)
    if count < 2:
        return f"it has one kernel, {kernel.name!r}"
    why = f": {kernel.joined}" if kernel.joined else ""
    return f"its {count} launches are one unit, {kernel.name!r}{why}"


def _longest(graph: KernelGraph, us: Sequence[float], kernels: Iterable[int], most: int = 3) -> str:
    """Return the names of the longest of some kernels, each with its share of the serial time, and how many more there are."""
    ordered, serial = sorted(kernels, key=lambda kernel: -us[kernel]), serial_us(graph, us)
    return listed([f"{graph.kernels[kernel].name!r} ({us[kernel] / serial:.1%})" for kernel in ordered], most)


def _bound(graph: KernelGraph, us: Sequence[float], share: float) -> str:
    """Return which kernels a user has put on one stream, if those that have to be there take `share` or more; else nothing."""
    kernels, serial = graph.kernels, serial_us(graph, us)
    for stream in sorted({kernel.pinned for kernel in kernels if kernel.pinned is not None}):
        there = [kernel for kernel in kernels if kernel.bound_stream == stream]
        taken = sum(us[kernel.id] for kernel in there) / serial
        if taken >= share * CHAIN:
            own = sorted((kernel for kernel in there if kernel.pinned == stream), key=lambda kernel: -us[kernel.id])
            names = listed([f"{kernel.name!r} ({kernel.pinned_reason})" for kernel in own])
            return f"the kernels that have to be on stream {stream} take {taken:.1%} of the serial time: {names}"
    return ""


def _exclusive(graph: KernelGraph, us: Sequence[float], share: float) -> str:
    """Return which kernels make the longest path longer by keeping their place against all others; empty if none do."""
    names = [repr(kernel.name) for kernel in graph.kernels if kernel.exclusive]
    if not names:
        return ""
    free = replace(graph, edges=tuple(edge for edge in graph.edges if edge.kind is not EdgeKind.ORDER))
    without = longest_path_us(free, us) / serial_us(graph, us)
    if without >= share * CHAIN:
        return ""
    verb = "keep their places" if len(names) > 1 else "keeps its place"
    return f"; {listed(names)} {verb} against every other kernel, without which the longest path would take {without:.1%}"
