"""Group the scheduler nodes of a lowered graph into the kernels that are planned.

No two groups depend on each other in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from graphstreams.inductor.accesses import semaphores
from graphstreams.inductor.collectives import Collectives
from graphstreams.inductor.concatenations import pieces_of
from graphstreams.inductor.exclusivity import resources
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.scheduler_nodes import is_size_check, launches_nothing
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.declarations import Declarations
from graphstreams.reading.dependences import StorageUse, dependences
from graphstreams.reading.stored_values import StoredValues

# Why launches are one unit.
MUTATION, STEPS = "they carry out one mutation", "they are steps of one operator"
UNNAMED = "no value of the graph stands for what one passes to the next"
PIECES = "they write the pieces of one buffer"
NOWHERE = -1
NO_COLLECTIVES = Collectives()
CIRCLE = "by what they read and write none of them could come first"


@dataclass(frozen=True)
class Partition:
    """Groups of positions, in an order that respects every link between them."""

    members: tuple[tuple[int, ...], ...]  # the positions of each group, ascending
    of: tuple[int, ...]  # the group of each position, or NOWHERE
    reasons: tuple[str, ...] = ()  # why the positions of each group are together; empty for groups of one


def acyclic_partition(
    count: int, must_merge: Mapping[tuple[int, int], str], links: Iterable[tuple[int, int]], left_out: Collection[int] = ()
) -> Partition:
    """Return the finest groups of positions 0..count-1 that keep each pair of `must_merge` together and have no circle.

    `must_merge` says why for each pair, `links` are (before, after) between positions. A group is a strongly connected
    component of the links and of the pairs, linked in both directions. Of groups that could come next, the one with the lowest
    position does. Positions that are `left_out`, without pairs and links, are in no group.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(position for position in range(count) if position not in left_out)
    graph.add_edges_from(links)
    for one, other in must_merge:
        graph.add_edges_from([(one, other), (other, one)])
    groups = nx.condensation(graph)
    members = {group: tuple(sorted(positions)) for group, positions in groups.nodes(data="members")}
    ordered = tuple(members[group] for group in nx.lexicographical_topological_sort(groups, key=members.__getitem__))
    place = {position: i for i, positions in enumerate(ordered) for position in positions}
    reasons = [CIRCLE if len(positions) > 1 else "" for positions in ordered]
    for (one, other), why in must_merge.items():
        if one != other:
            reasons[place[one]] = why
    return Partition(ordered, tuple(place.get(position, NOWHERE) for position in range(count)), tuple(reasons))


def kernel_partition(
    lowered: Lowered, values: StoredValues, storages: AliasSets, declared: Declarations = (), divided: Collection[int] = (),
    collectives: Collectives = NO_COLLECTIVES, order: Sequence[Hashable] = (),
) -> Partition:  # fmt: skip
    """Return the groups of scheduler nodes that become one kernel each.

    Nodes stay together if no FX value stands for a buffer between them, or if they carry out one mutation. What writes the
    pieces of a concatenation does, unless it is `divided`. A concatenation that nobody owns is in no group. Groups of
    collectives stand in the `order` of their labels.
    """
    readers: dict[str, list[int]] = {}
    for position, names in enumerate(values.reads):
        for name in names:
            readers.setdefault(name, []).append(position)
    must_merge = {(positions[0], other): MUTATION for positions in values.mutators.values() for other in positions[1:]}
    carrying_out = {p for positions in values.mutators.values() for p in positions}
    for position, node in enumerate(lowered.nodes):
        for output in node.get_outputs():
            name = output.get_name()
            if name not in values.root and not output.get_mutations():
                must_merge.update({(position, reader): UNNAMED for reader in readers.get(name, ())})
            if position not in carrying_out:
                # A step of one operator, such as the atomic additions of a scatter to the copy that it makes.
                must_merge.update({(position, values.owner[m]): STEPS for m in output.get_mutations() if m in values.owner})
        if launches_nothing(node) and position not in divided:
            must_merge.update(dict.fromkeys(_with_pieces(position, node, values, readers), PIECES))
    pieces = {name for position in divided for name in pieces_of(lowered.nodes[position])}
    nobodys = {position for position in divided if values.owner.keys().isdisjoint(lowered.nodes[position].get_buffer_names())}
    nobodys |= {position for position, node in enumerate(lowered.nodes) if is_size_check(node)}  # the host's
    touched = [
        _storage_use(node, names, storages, declared, pieces, collectives.reads.get(position, frozenset()))
        if position not in nobodys
        else StorageUse((), ())
        for position, (node, names) in enumerate(zip(lowered.nodes, values.reads, strict=True))
    ]
    links = [*((edge.before, edge.after) for edge in dependences(touched)), *collectives.pairs(order)]
    return acyclic_partition(len(lowered.nodes), must_merge, links, nobodys)


def _with_pieces(position: int, node: Any, values: StoredValues, readers: dict[str, list[int]]) -> Iterable[tuple[int, int]]:
    """Return the pairs that merge a node without a launch with what writes its pieces, or else with its first reader."""
    pieces = [values.owner[name] for name in sorted(values.reads[position]) if name in values.owner]
    if pieces:
        return [(position, piece) for piece in pieces]
    first = [min(readers[b]) for b in node.get_buffer_names() if readers.get(b)]
    return [(position, min(first))] if first else []


def _storage_use(
    node: Any, names: Iterable[str], storages: AliasSets, declared: Declarations, pieces: Collection[str],
    until_then: Collection[str],
) -> StorageUse:  # fmt: skip
    reads = {storages.storage(name) for name in names}.union(until_then)
    writes = {storages.storage(name) for name in node.get_buffer_names() if name not in pieces}
    parts = sorted((storages.storage(name), name) for name in node.get_buffer_names() if name in pieces)
    written = tuple(sorted(writes.union(semaphores(node), resources(node, declared))))
    return StorageUse(tuple(sorted(reads)), written, parts=tuple(parts))
