"""Assign kernels to streams as other systems do: the policies of `bench_deepseek.py`.

Written from their papers and descriptions, to compare policies on the same kernels; what else those systems do (lifetimes,
thresholds, their own runners) is not here. Each policy takes a graph, the us of each kernel and its share of the GPU, from 0
to 1, and returns an assignment whose order is the one of the launches. Exclusive kernels stay on the caller's stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import cycle

from graphstreams.benchmark.variants import Policy
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.planning.paths import Assignment, bottom_levels, critical_path

TENSORRT_STREAMS = 3
TORCHSCHED_STREAMS = 8


def tensorrt_llm(graph: KernelGraph, us: Sequence[float], shares: Sequence[float]) -> Assignment:
    """Assign as TensorRT-LLM's `auto_multi_stream`: a list schedule by the longest path from each kernel, with constant times.

    A matrix product counts 10, a mixture of experts 60, all else 1. A kernel goes to the first of three streams that is free
    when its inputs are ready, or to the one that is free first. Each stream launches as far as it can, in turns.
    """
    weight = [_constant(kernel) for kernel in graph.kernels]
    remaining = bottom_levels(graph.successors(), weight)
    free, end, stream = [0.0] * TENSORRT_STREAMS, [0.0] * len(weight), [0] * len(weight)
    queues: list[list[int]] = [[] for _ in free]
    predecessors = graph.predecessors()
    for kernel in _by_rank(graph, [w - r for w, r in zip(weight, remaining, strict=True)]):
        ready = max((end[p] for p in predecessors[kernel]), default=0.0)
        idle = [s for s, at in enumerate(free) if at <= ready]
        stream[kernel] = idle[0] if idle else free.index(min(free))
        end[kernel] = free[stream[kernel]] = max(ready, free[stream[kernel]]) + weight[kernel]
        queues[stream[kernel]].append(kernel)
    return _with_exclusive(graph, Assignment(_in_turns(queues, predecessors), stream))


def torchsched(graph: KernelGraph, us: Sequence[float], shares: Sequence[float]) -> Assignment:
    """Assign as apex's `torchsched`: the longest path, counted in kernels, on stream 0, the others in turns on seven more.

    Kernels are launched in program order.
    """
    successors = graph.successors()
    path = set(critical_path(successors, bottom_levels(successors, [1.0] * len(graph.kernels))))
    side = cycle(range(1, TORCHSCHED_STREAMS))
    stream = [0 if kernel.id in path else next(side) for kernel in graph.kernels]
    return _with_exclusive(graph, Assignment(range(len(stream)), stream))


def opara(graph: KernelGraph, us: Sequence[float], shares: Sequence[float]) -> Assignment:
    """Assign as Opara: a kernel follows the first predecessor that no kernel follows yet, on its stream, or opens a new one.

    Of the kernels that may be launched the one that needs least of the GPU goes first, matrix products and others in turns.
    """
    stream: list[int] = []
    followed: set[int] = set()
    opened = 0
    for own in graph.predecessors():
        leader = next((p for p in own if p not in followed), None)
        if leader is None:
            stream.append(opened)
            opened += 1
        else:
            followed.add(leader)
            stream.append(stream[leader])
    return _with_exclusive(graph, Assignment(_small_first(graph, shares), stream))


def nimble(graph: KernelGraph, us: Sequence[float], shares: Sequence[float]) -> Assignment:
    """Assign as Nimble: a stream is a chain of direct dependences, so kernels without a path between them never share one.

    The chains come from a maximum matching on the transitive reduction, as in its paper (Kwon et al., NeurIPS 2020). Of all
    assignments that keep such kernels apart, this leaves the fewest of the reduction's edges between streams.
    """
    return _chains(graph, reduction(graph))


def fewest_streams(graph: KernelGraph, us: Sequence[float], shares: Sequence[float]) -> Assignment:
    """Assign as Nimble, but from the transitive closure: the fewest streams that keep such kernels apart (Dilworth)."""
    return _chains(graph, closure(graph))


POLICIES: dict[str, Policy] = {
    "TensorRT-LLM": tensorrt_llm,
    "torchsched": torchsched,
    "Opara": opara,
    "Nimble": nimble,
    "fewest streams": fewest_streams,
}


def minimum_syncs(graph: KernelGraph, assignment: Assignment) -> int:
    """Return Nimble's count: the edges of the transitive reduction whose ends are on two streams, without fork and join."""
    stream = assignment.stream
    return sum(stream[before] != stream[after] for before, own in enumerate(reduction(graph)) for after in own)


def fork_and_join_syncs(graph: KernelGraph, assignment: Assignment) -> tuple[int, int]:
    """Return how many kernels on streams other than the caller's have no predecessors, and how many no successors."""
    neighbours = graph.predecessors(), graph.successors()
    forks, joins = (sum(s != 0 and not own for s, own in zip(assignment.stream, side, strict=True)) for side in neighbours)
    return forks, joins


def syncs(graph: KernelGraph, assignment: Assignment) -> dict[str, int]:
    """Return both counts by name, as a benchmark keeps them of each assignment."""
    between = fork_and_join_syncs(graph, assignment)
    return {"reduction_syncs": minimum_syncs(graph, assignment), "reduction_forks_and_joins": sum(between)}


def closure(graph: KernelGraph) -> list[list[int]]:
    """Return all kernels that come after each kernel, directly or not."""
    return [_members(bits) for bits in _reached(graph.successors())]


def reduction(graph: KernelGraph) -> list[list[int]]:
    """Return the successors of each kernel without those that come after another successor."""
    successors = graph.successors()
    reached = _reached(successors)
    reduced = []
    for own in successors:
        implied = 0
        for successor in own:
            implied |= reached[successor]
        reduced.append([s for s in own if not implied >> s & 1])
    return reduced


def _reached(successors: Sequence[Sequence[int]]) -> list[int]:
    """Return all kernels that come after each kernel, as bits. Edges go from lower to higher ids."""
    reached = [0] * len(successors)
    for kernel in reversed(range(len(successors))):
        for successor in successors[kernel]:
            reached[kernel] |= reached[successor] | 1 << successor
    return reached


def _members(bits: int) -> list[int]:
    return [i for i in range(bits.bit_length()) if bits >> i & 1]


def _chains(graph: KernelGraph, nexts: Sequence[Sequence[int]]) -> Assignment:
    """Assign a stream to each chain: a kernel is followed by at most one of its `nexts`, and as many as possible are."""
    leader = _matching(nexts)
    stream: list[int] = []
    chains = 0
    for kernel in range(len(nexts)):
        if kernel in leader:
            stream.append(stream[leader[kernel]])
        else:
            stream.append(chains)
            chains += 1
    return _with_exclusive(graph, Assignment(range(len(stream)), stream))


def _matching(nexts: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return a maximum matching of kernels with one of their `nexts` each, as a map from the latter to the former.

    By augmenting paths (Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 2, 1955).
    """
    leader: dict[int, int] = {}

    def augmented(kernel: int, seen: set[int]) -> bool:
        for follower in nexts[kernel]:
            if follower not in seen:
                seen.add(follower)
                if follower not in leader or augmented(leader[follower], seen):
                    leader[follower] = kernel
                    return True
        return False

    for kernel in range(len(nexts)):
        augmented(kernel, set())
    return leader


def _constant(kernel: Kernel) -> float:
    if any("moe" in op for op in kernel.ops):
        return 60.0
    return 10.0 if _multiplies(kernel) else 1.0


def _multiplies(kernel: Kernel) -> bool:
    return kernel.kind in ("gemm", "template")


def _by_rank(graph: KernelGraph, rank: Sequence[float]) -> Iterator[int]:
    """Yield the kernels in an order that agrees with the edges: of those that are ready, the lowest rank first."""
    missing, successors = [len(own) for own in graph.predecessors()], graph.successors()
    ready = [(rank[k], k) for k, count in enumerate(missing) if not count]
    heapify(ready)
    while ready:
        _, kernel = heappop(ready)
        yield kernel
        for successor in successors[kernel]:
            missing[successor] -= 1
            if not missing[successor]:
                heappush(ready, (rank[successor], successor))


def _in_turns(queues: Sequence[Sequence[int]], predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Return the launches of the streams in turns, each as far as the launches of the others let it."""
    order: list[int] = []
    launched: set[int] = set()
    places = [0] * len(queues)
    while len(order) < len(predecessors):
        for stream, queue in enumerate(queues):
            while places[stream] < len(queue) and launched.issuperset(predecessors[queue[places[stream]]]):
                order.append(queue[places[stream]])
                launched.add(order[-1])
                places[stream] += 1
    return order


def _small_first(graph: KernelGraph, shares: Sequence[float]) -> list[int]:
    """Return Opara's order of launches."""
    missing, successors = [len(own) for own in graph.predecessors()], graph.successors()
    ready = [k for k, count in enumerate(missing) if not count]
    order: list[int] = []
    product_next = True
    while ready:
        wanted = [k for k in ready if _multiplies(graph.kernels[k]) == product_next] or ready
        kernel = min(wanted, key=lambda k: (shares[k], k))
        product_next = not product_next
        ready.remove(kernel)
        order.append(kernel)
        for successor in successors[kernel]:
            missing[successor] -= 1
            if not missing[successor]:
                ready.append(successor)
    return order


def _with_exclusive(graph: KernelGraph, assignment: Assignment) -> Assignment:
    """Return the same with exclusive kernels on the caller's stream."""
    streams = zip(graph.kernels, assignment.stream, strict=True)
    return Assignment(assignment.order, [0 if kernel.on_caller else stream for kernel, stream in streams])
