"""Dependences between kernels, from the storages that they read and write in program order."""

from __future__ import annotations

from collections.abc import Sequence

from dataclasses import dataclass

from graphstreams.graph.kernels import Edge, EdgeKind


@dataclass(frozen=True)
class Touched:
    """The storages that one kernel reads and writes, and whether it keeps its place against every other kernel."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    exclusive: bool = False


def dependences(kernels: Sequence[Touched]) -> tuple[Edge, ...]:
    """Every direct dependence, one edge for each pair of kernels, storage and kind, in program order.

    An exclusive kernel is ordered after every kernel before it and before every kernel after it.
    """
    edges: dict[tuple[int, int, EdgeKind, str], None] = {}
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    since_barrier: list[int] = []
    barrier: int | None = None
    for position, kernel in enumerate(kernels):
        for storage in kernel.reads:
            if storage in writer:
                edges[writer[storage], position, EdgeKind.RAW, storage] = None
        for storage in kernel.writes:
            for reader in readers.get(storage, ()):
                edges[reader, position, EdgeKind.WAR, storage] = None
            if storage in writer:
                edges[writer[storage], position, EdgeKind.WAW, storage] = None
        if barrier is not None:
            edges[barrier, position, EdgeKind.ORDER, ""] = None
        if kernel.exclusive:
            for earlier in since_barrier:
                edges[earlier, position, EdgeKind.ORDER, ""] = None
            barrier, since_barrier = position, []
        else:
            since_barrier.append(position)
        for storage in kernel.writes:
            writer[storage], readers[storage] = position, []
        for storage in kernel.reads:
            if storage not in kernel.writes:
                readers.setdefault(storage, []).append(position)
    return tuple(Edge(*key) for key in edges)
