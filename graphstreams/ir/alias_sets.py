"""Tell which names of a lowered graph stand for the same memory.

Inductor gives a new buffer name to each mutation of a storage and to each alias of one. Dependences are between storages,
so names that share memory are merged into one, whose representative is a graph input if one is among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import networkx as nx


class AliasSets:
    """Disjoint sets of buffer names."""

    def __init__(self, inputs: Collection[str], aliases: Iterable[tuple[str, str]]) -> None:
        """Put the names of each pair, which share memory, into one set."""
        graph = nx.Graph(aliases)
        self._storage: dict[str, str] = {}
        for name in sorted(graph, key=lambda name: name not in inputs):
            if name not in self._storage:
                self._storage.update(dict.fromkeys(nx.node_connected_component(graph, name), name))

    def storage(self, name: str) -> str:
        """Return the representative of the storage that `name` stands for; the name itself if it shares no memory."""
        return self._storage.get(name, name)
