"""Find the layers of a deep graph that are alike, and give each of them the plan of one.

A search tries as many plans of sixty layers as of one, so of each layer it tries next to none. Alike are runs of kernels, one
behind another in program order, that launch the same for as much work and depend on each other in the same way. Times do not
count: measured ones, of which a few are far off, made six layers of 184 kernels out of sixty-one of 23. What a layer shares
with the next one is not searched: a plan of a layer keeps to its kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.planning.paths import Assignment

MANY_KERNELS = 125  # kernels of a graph up to which all of it is searched at once
FEWEST = 3  # layers that have to be alike
LENGTHS = 16  # lengths of a layer that are tried
AGAIN = 8  # of each kernel the next ones of its kind whose distance is one of them

Shape = frozenset[tuple[int, int]]  # the edges inside of a layer, counted from its first kernel


@dataclass(frozen=True)
class Layers:
    """Equally many kernels again and again, from the kernel `first` on."""

    first: int
    length: int  # kernels of a layer
    count: int

    @property
    def end(self) -> int:
        """The kernel behind the last layer."""
        return self.first + self.length * self.count

    def kernels(self, number: int) -> range:
        """Return the kernels of a layer, counted from 0."""
        start = self.first + number * self.length
        return range(start, start + self.length)

    def parts(self, kernels: int) -> list[range]:
        """Return the layers, and what is before and behind them in a graph of so many kernels."""
        layers = [self.kernels(number) for number in range(self.count)]
        return [part for part in (range(self.first), *layers, range(self.end, kernels)) if part]


def repeated_layers(graph: KernelGraph) -> Layers | None:
    """Return the layers that most kernels of a graph of many are in; None if it is small, or if most are in no such layer."""
    count = len(graph.kernels)
    if count <= MANY_KERNELS:
        return None
    found = max(_runs(graph), key=lambda layers: (layers.count * layers.length, -layers.length), default=None)
    if found is None or 2 * found.count * found.length < count:
        return None
    best = max(_with_one_shape(graph, _cut(graph, found)), key=lambda layers: layers.count, default=None)
    return best if best is not None and 2 * best.count * best.length >= count else None


def _runs(graph: KernelGraph) -> list[Layers]:
    """Return the longest run of each length that a layer may have."""
    signs = [_sign(kernel) for kernel in graph.kernels]
    found = []
    for length in _lengths(signs):
        longest, start, run = 0, 0, 0
        for kernel in range(len(signs) - length):
            run = run + 1 if signs[kernel] == signs[kernel + length] else 0
            if run > longest:
                longest, start = run, kernel + 1 - run
        if (layers := 1 + longest // length) >= FEWEST:
            found.append(Layers(start, length, layers))
    return found


def _sign(kernel: Kernel) -> Hashable:
    """Return what two kernels have in common that do the same: their launches, and what they read, write and compute."""
    touched = [frozenset(Counter(access.bytes for access in accesses).items()) for accesses in (kernel.reads, kernel.writes)]
    return kernel.kind, kernel.launches, kernel.bound_stream, *touched, kernel.flops


def _lengths(signs: Sequence[Hashable]) -> list[int]:
    """Return the distances at which a kernel most often comes again. A layer may have it several times."""
    places: dict[Hashable, list[int]] = {}
    for kernel, sign in enumerate(signs):
        places.setdefault(sign, []).append(kernel)
    again = (later - own[i] for own in places.values() for i in range(len(own)) for later in own[i + 1 : i + 1 + AGAIN])
    return sorted(length for length, _ in Counter(again).most_common(LENGTHS))


def _cut(graph: KernelGraph, layers: Layers) -> Layers:
    """Return the layers cut where the fewest values pass from one to the next."""
    middle = layers.kernels(layers.count // 2)
    passing = {(e.before, e.after) for e in graph.edges if e.before < middle.stop and e.after >= middle.start}
    crossing = [len({before for before, after in passing if before < at <= after}) for at in middle]
    shift = crossing.index(min(crossing))
    count = layers.count if shift == 0 else layers.count - 1
    return replace(layers, first=layers.first + shift, count=count)


def _with_one_shape(graph: KernelGraph, layers: Layers) -> list[Layers]:
    """Return the runs of layers whose kernels depend on each other in the same way."""
    shapes = _shapes(graph, layers)
    starts = [0, *(number for number, (a, b) in enumerate(pairwise(shapes), 1) if a != b), layers.count]
    runs = [(start, end - start) for start, end in pairwise(starts) if end - start >= FEWEST]
    return [replace(layers, first=layers.kernels(start).start, count=count) for start, count in runs]


def _shapes(graph: KernelGraph, layers: Layers) -> list[Shape]:
    inside: list[set[tuple[int, int]]] = [set() for _ in range(layers.count)]
    for edge in graph.edges:
        before, after = edge.before - layers.first, edge.after - layers.first
        number = before // layers.length
        if 0 <= number < layers.count and after // layers.length == number:
            inside[number].add((before % layers.length, after % layers.length))
    return [frozenset(own) for own in inside]


def note_on_layers(graph: KernelGraph) -> list[str]:
    """Return how many layers of a graph are alike, for the report's notes; empty if none are."""
    layers = repeated_layers(graph)
    if layers is None:
        return []
    text = f"{layers.count} layers of {layers.length} kernels are alike, from {graph.kernels[layers.first].name!r} on"
    return [f"{text}: a plan of one of them can serve all"]


def part_of(graph: KernelGraph, kernels: range) -> KernelGraph:
    """Return some kernels of a graph, one behind another, as a graph of their own, numbered from 0."""
    start = kernels.start
    inside = [edge for edge in graph.edges if edge.before in kernels and edge.after in kernels]
    edges = [replace(edge, before=edge.before - start, after=edge.after - start) for edge in inside]
    own = tuple(replace(graph.kernels[kernel], id=kernel - start) for kernel in kernels)
    return KernelGraph(graph.name, own, tuple(edges), graph.sizes)


def layered(layers: Layers, kernels: int, assign: Callable[[range], Assignment]) -> Assignment:
    """Return the assignment of a graph of so many kernels: that of the middle layer in each layer, and those of the rest.

    `assign` returns the assignment of a part, in the numbers of `part_of`. The priority is that of the layer.
    """
    middle = assign(layers.kernels(layers.count // 2))
    order: list[int] = []
    stream: list[int] = []
    for part in layers.parts(kernels):
        inside = layers.first <= part.start < layers.end
        own = middle if inside else assign(part)
        order += [part.start + kernel for kernel in own.order]
        stream += own.stream
    return Assignment(order, stream, middle.priority)
