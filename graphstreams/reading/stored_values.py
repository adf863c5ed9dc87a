"""Find where the value of each FX node is stored once its graph is lowered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from graphstreams.errors import Unsupported
from graphstreams.inductor.accesses import data_reads
from graphstreams.inductor.collective_operators import is_collective, role
from graphstreams.inductor.concatenations import pieces_of
from graphstreams.inductor.lowering import Lowered, storage_name
from graphstreams.inductor.scheduler_nodes import origins
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.reading.eligibility import mutates


@dataclass(frozen=True)
class StoredValues:
    """The buffers of FX values, and the scheduler nodes, by position, that make, change and read them."""

    owner: dict[str, int]  # buffer -> the scheduler node that makes it
    buffer: dict[fx.Node, str]  # node -> the buffer that holds its value, also if the value is a view of it
    root: dict[str, fx.Node]  # buffer -> the first node whose value it holds
    mutators: dict[fx.Node, list[int]]  # mutating node -> the scheduler nodes that carry it out
    reads: list[frozenset[str]]  # of each scheduler node, the buffers that it reads
    joins: dict[str, fx.Node] = field(default_factory=dict)  # piece -> the concatenation that it is of, if nobody owns that


def stored_values(lowered: Lowered) -> StoredValues:
    """Return where the values of a lowered graph are stored. Raises Unsupported if no kernel carries out a mutation."""
    owner = {buffer: position for position, node in enumerate(lowered.nodes) for buffer in node.get_buffer_names()}
    buffer: dict[fx.Node, str] = {}
    root: dict[str, fx.Node] = {}
    for node, value in lowered.values.items():
        stored = None if isinstance(value, list | tuple) else storage_name(value)
        if stored is not None:
            buffer[node] = stored
            root.setdefault(stored, node)
    # Values have a mutated buffer's first name, while the scheduler gives it another for each mutation.
    first_name = lowered.graph.scheduler.mutation_real_name
    reads = [frozenset(first_name.get(dep.name, dep.name) for dep in data_reads(node)) for node in lowered.nodes]
    return StoredValues(owner, buffer, root, _mutators(lowered), reads)


def without_owner(values: StoredValues, concatenations: Iterable[Any], lowered: Lowered) -> StoredValues:
    """Return the values with divided concatenations owned by no scheduler node: what reads one or a piece reads all pieces.

    `concatenations` are scheduler nodes, which launch nothing. Those stay as they are that are changed in place, or of which a
    piece has no FX node or is read before another is made.
    """
    owner, reads, joins = dict(values.owner), list(values.reads), {}
    mutated = {name for node in lowered.nodes for output in node.get_outputs() for name in output.get_mutations()}
    for node in concatenations:
        pieces = frozenset(pieces_of(node))
        (name,) = node.get_buffer_names()
        if name in mutated or name not in values.root or not pieces <= values.root.keys():
            continue
        made = max(values.owner[piece] for piece in pieces)
        if any(position <= made for position, own in enumerate(reads) if not own.isdisjoint(pieces | {name})):
            continue
        del owner[name]
        joins.update(dict.fromkeys(pieces, values.root[name]))
        reads = [own if own.isdisjoint(pieces | {name}) else own | pieces for own in reads]
    return replace(values, owner=owner, reads=reads, joins=joins)


def _mutators(lowered: Lowered) -> dict[fx.Node, list[int]]:
    found: dict[fx.Node, list[int]] = {n: [] for n in lowered.values if mutates(n)}
    for position, node in enumerate(lowered.nodes):
        collective, own = bool(role(node)), origins(node)
        # The origins of an operator include those of its operands; the last one is its own. What a collective in place is
        # given is stored for it, and so has it among its origins too.
        for origin in own[-1:] if collective else own:
            if origin in found and is_collective(origin) == collective:
                found[origin].append(position)
    for node in [n for n, positions in found.items() if not positions]:
        if not _copies_itself(node, lowered):
            raise Unsupported(f"no kernel carries out the mutation {node.name!r}")
        del found[node]
    return found


def _copies_itself(node: fx.Node, lowered: Lowered) -> bool:
    """Return whether the node copies a buffer onto itself, which is what remains of a mutation that was made in place."""
    if node.target is not torch.ops.aten.copy_.default:
        return False
    target, source = (storage_name(lowered.values[n]) if isinstance(n, fx.Node) else None for n in node.args[:2])
    return target is not None and target == source


def storages_of(lowered: Lowered) -> AliasSets:
    """Return which buffers of a lowered graph share memory."""
    pairs = []
    for node in lowered.nodes:
        # A collective in place has no memory by itself, and counts as an alias of all that it is given.
        collective = bool(role(node))
        for output in node.get_outputs():
            names = (*(() if collective else output.get_aliases()), *output.get_mutations())
            pairs += [(name, output.get_name()) for name in names]
    return AliasSets(lowered.graph.graph_inputs, pairs)
