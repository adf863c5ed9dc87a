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
    collective: bool = False  # whether it starts a collective or waits for one
    parts: tuple[tuple[str, str], ...] = ()  # storages of which it writes one part only, no two of which overlap, and that part


def dependences(kernels: Sequence[StorageUse]) -> tuple[Edge, ...]:
    """Return every direct dependence, in program order: one edge for each pair of kernels, storage and kind.

    An exclusive kernel is ordered after every kernel before it and before every kernel after it. Starts of collectives and
    waits for them are ordered after one another.
    """
    edges: dict[tuple[int, int, EdgeKind, str], None] = {}
    last = _LastAccesses()
    barrier: int | None = None
    collective: int | None = None
    for position, kernel in enumerate(kernels):
        for before, kind, storage in last.conflicts(kernel):
            edges[before, position, kind, storage] = None
        if kernel.exclusive:
            for before in range(0 if barrier is None else barrier, position):
                edges[before, position, EdgeKind.ORDER, ""] = None
            barrier = position
        elif barrier is not None:
            edges[barrier, position, EdgeKind.ORDER, ""] = None
        if kernel.collective:
            if collective is not None:
                edges[collective, position, EdgeKind.ORDER, ""] = None
            collective = position
        last.add(position, kernel)
    return tuple(Edge(*key) for key in edges)


class _LastAccesses:
    """The kernel that wrote each part of a storage last, and those that have read the storage since it was written as a whole.

    The whole is the part without a name.
    """

    def __init__(self) -> None:
        self._writers: dict[str, dict[str, int]] = {}
        self._readers: dict[str, list[int]] = {}

    def conflicts(self, kernel: StorageUse) -> Iterator[tuple[int, EdgeKind, str]]:
        """Yield each earlier kernel that `kernel` has to come after, the kind of their dependence, and the storage."""
        for storage in kernel.reads:
            for writer in self._writers.get(storage, {}).values():
                yield writer, EdgeKind.RAW, storage
        for storage, part in _written(kernel):
            for reader in self._readers.get(storage, ()):
                yield reader, EdgeKind.WAR, storage
            for other, writer in self._writers.get(storage, {}).items():
                if not part or other in ("", part):
                    yield writer, EdgeKind.WAW, storage

    def add(self, position: int, kernel: StorageUse) -> None:
        """Record the accesses of the kernel at `position`."""
        for storage, part in _written(kernel):
            if part:
                self._writers.setdefault(storage, {})[part] = position
            else:
                self._writers[storage], self._readers[storage] = {"": position}, []
        for storage in kernel.reads:
            if storage not in kernel.writes:
                self._readers.setdefault(storage, []).append(position)


def _written(kernel: StorageUse) -> Iterator[tuple[str, str]]:
    """Yield the storages that a kernel writes, each with the only part that it writes, or without a part."""
    yield from ((storage, "") for storage in kernel.writes)
    yield from kernel.parts
