"""Groups of scheduler nodes that are planned as one kernel, such that no two groups depend on each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """`members[g]` are the positions in group g, ascending; `of[p]` is the group of position p. Groups are in an order
    that respects every link."""

    members: tuple[tuple[int, ...], ...]
    of: tuple[int, ...]


def acyclic_partition(count: int, must_merge: Iterable[tuple[int, int]], links: Sequence[tuple[int, int]]) -> Partition:
    """The finest groups of positions 0..count-1 that keep the pairs of `must_merge` in one group and have no circle.

    `links` are (before, after) between positions. Merging can close a circle of links between groups: its groups become
    one (the strongly connected components, Tarjan 1972, without recursion).
    """
    parent = list(range(count))

    def find(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for one, other in must_merge:
        parent[max(find(one), find(other))] = min(find(one), find(other))
    successors: dict[int, set[int]] = {find(p): set() for p in range(count)}
    for before, after in links:
        if find(before) != find(after):
            successors[find(before)].add(find(after))
    component = _components(successors)
    root = [component[find(p)] for p in range(count)]
    return _ordered(root, links)


def _components(successors: dict[int, set[int]]) -> dict[int, int]:
    """Component of each vertex, named by one of its vertices."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    component: dict[int, int] = {}
    path: list[int] = []
    for start in successors:
        if start in index:
            continue
        work = [(start, iter(sorted(successors[start])))]
        index[start] = low[start] = len(index)
        path.append(start)
        while work:
            vertex, remaining = work[-1]
            following = next(remaining, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[vertex])
                if low[vertex] == index[vertex]:
                    _close(vertex, path, component)
            elif following not in index:
                index[following] = low[following] = len(index)
                path.append(following)
                work.append((following, iter(sorted(successors[following]))))
            elif following not in component:
                low[vertex] = min(low[vertex], index[following])
    return component


def _close(vertex: int, path: list[int], component: dict[int, int]) -> None:
    while True:
        member = path.pop()
        component[member] = vertex
        if member == vertex:
            return


def _ordered(root: list[int], links: Sequence[tuple[int, int]]) -> Partition:
    """Groups in a topological order that stays close to the order of their first members."""
    import heapq

    members: dict[int, list[int]] = {}
    for position, name in enumerate(root):
        members.setdefault(name, []).append(position)
    waiting = {name: 0 for name in members}
    successors: dict[int, set[int]] = {name: set() for name in members}
    for before, after in links:
        source, target = root[before], root[after]
        if source != target and target not in successors[source]:
            successors[source].add(target)
            waiting[target] += 1
    ready = [(members[name][0], name) for name, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[int] = []
    while ready:
        _, name = heapq.heappop(ready)
        ordered.append(name)
        for target in successors[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                heapq.heappush(ready, (members[target][0], target))
    place = {name: i for i, name in enumerate(ordered)}
    return Partition(tuple(tuple(members[name]) for name in ordered), tuple(place[name] for name in root))
