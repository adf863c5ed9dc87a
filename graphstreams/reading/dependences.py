"""Find the dependences between kernels from the storages that they read and write in program order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphstreams.ir.kernels import Edge, EdgeKind


@dataclass(frozen=True)
class StorageUse:
    """The storages that one kernel reads and writes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    exclusive: bool = False  # whether it keeps its place against every other kernel


def dependences(kernels: Sequence[StorageUse]) -> tuple[Edge, ...]:
    """Return every direct dependence, in program order: one edge for each pair of kernels, storage and kind.

    An exclusive kernel is ordered after every kernel before it and before every kernel after it.
    """
    edges: dict[tuple[int, int, EdgeKind, str], None] = {}
    last = _LastAccesses()
    barrier: int | None = None
    for position, kernel in enumerate(kernels):
        for before, kind, storage in last.conflicts(kernel):
            edges[before, position, kind, storage] = None
        if kernel.exclusive:
            for before in range(0 if barrier is None else barrier, position):
                edges[before, position, EdgeKind.ORDER, ""] = None
            barrier = position
        elif barrier is not None:
            edges[barrier, position, EdgeKind.ORDER, ""] = None
        last.add(position, kernel)
    return tuple(Edge(*key) for key in edges)


class _LastAccesses:
    """The kernel that wrote each storage last, and those that have read it since."""

    def __init__(self) -> None:
        self._writer: dict[str, int] = {}
        self._readers: dict[str, list[int]] = {}

    def conflicts(self, kernel: StorageUse) -> Iterator[tuple[int, EdgeKind, str]]:
        """Yield each earlier kernel that `kernel` has to come after, the kind of their dependence, and the storage."""
        for storage in kernel.reads:
            if storage in self._writer:
                yield self._writer[storage], EdgeKind.RAW, storage
        for storage in kernel.writes:
            for reader in self._readers.get(storage, ()):
                yield reader, EdgeKind.WAR, storage
            if storage in self._writer:
                yield self._writer[storage], EdgeKind.WAW, storage

    def add(self, position: int, kernel: StorageUse) -> None:
        """Record the accesses of the kernel at `position`."""
        for storage in kernel.writes:
            self._writer[storage], self._readers[storage] = position, []
        for storage in kernel.reads:
            if storage not in kernel.writes:
                self._readers.setdefault(storage, []).append(position)
