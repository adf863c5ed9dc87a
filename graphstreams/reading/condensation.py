"""Group scheduler nodes that are planned as one kernel, such that no two groups depend on each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx


@dataclass(frozen=True)
class Partition:
    """Groups of positions, in an order that respects every link between them."""

    members: tuple[tuple[int, ...], ...]  # the positions of each group, ascending
    of: tuple[int, ...]  # the group of each position


def acyclic_partition(count: int, must_merge: Iterable[tuple[int, int]], links: Iterable[tuple[int, int]]) -> Partition:
    """Return the finest groups of positions 0..count-1 that keep each pair of `must_merge` together and have no circle.

    `links` are (before, after) between positions. A group is a strongly connected component of the links and of the pairs,
    linked in both directions. Of groups that could come next, the one with the lowest position does.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(links)
    for one, other in must_merge:
        graph.add_edges_from([(one, other), (other, one)])
    groups = nx.condensation(graph)
    first = {group: min(positions) for group, positions in groups.nodes(data="members")}
    order = list(nx.lexicographical_topological_sort(groups, key=first.__getitem__))
    place = {group: i for i, group in enumerate(order)}
    members = tuple(tuple(sorted(groups.nodes[group]["members"])) for group in order)
    return Partition(members, tuple(place[groups.graph["mapping"][position]] for position in range(count)))
