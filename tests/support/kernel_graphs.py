"""Build kernel graphs by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph


def graph_of(
    count: int, edges: Iterable[Sequence] = (), exclusive: Collection[int] = (), returned: Collection[int] = ()
) -> KernelGraph:
    """Return a graph of the kernels k0, k1, ... with edges (before, after), read after write, or (before, after, kind).

    The `exclusive` kernels have to be on the caller's stream; the `returned` ones allocate outputs of the graph.
    """
    kernels = tuple(
        Kernel(i, f"k{i}", "profile", exclusive=i in exclusive, allocates_output=i in returned) for i in range(count)
    )
    return KernelGraph("g", kernels, tuple(Edge(*edge[:2], *(edge[2:] or (EdgeKind.RAW,))) for edge in edges))
