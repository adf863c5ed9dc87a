"""Tell which names of a lowered graph stand for the same memory.

Inductor gives a new buffer name to each mutation of a storage and to each alias of one. Dependences are between storages,
so names that share memory are merged into one, whose representative is a graph input if one is among them.
"""

from __future__ import annotations

from collections.abc import Iterable


class AliasSets:
    """Disjoint sets of buffer names. Every name starts as its own storage."""

    def __init__(self, inputs: Iterable[str] = ()) -> None:
        self._parent: dict[str, str] = {}
        self._inputs = frozenset(inputs)

    def storage(self, name: str) -> str:
        """Return the representative of the storage that `name` stands for."""
        while (parent := self._parent.get(name, name)) != name:
            self._parent[name] = self._parent.get(parent, parent)  # halves the path for the next time
            name = parent
        return name

    def merge(self, name: str, other: str) -> None:
        """Record that the two names share memory."""
        first, second = self.storage(name), self.storage(other)
        if first == second:
            return
        if second in self._inputs and first not in self._inputs:
            first, second = second, first
        self._parent[second] = first
