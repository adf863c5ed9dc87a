"""Find the FX nodes that each kernel computes: the backward slice from its values to the values of other kernels."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from graphstreams.ir.reading import Region
from graphstreams.reading.condensation import Partition
from graphstreams.reading.eligibility import is_host_value
from graphstreams.reading.stored_values import StoredValues


def regions_of(module: fx.GraphModule, values: StoredValues, groups: Partition) -> tuple[list[Region], tuple[fx.Node, ...]]:
    """Return the slice of each group, and the nodes between their values and the graph's outputs, in graph order.

    The targets of a slice are only those values that another region or the output uses.
    """
    stored: list[list[fx.Node]] = [[] for _ in groups.members]
    for buffer, root in values.root.items():
        if buffer in values.owner:
            stored[groups.of[values.owner[buffer]]].append(root)
    mutations: list[list[fx.Node]] = [[] for _ in groups.members]
    for node, positions in values.mutators.items():
        mutations[groups.of[positions[0]]].append(node)
    every = range(len(groups.members))
    joins = [_joins(members, values) for members in groups.members]
    slices = [_slice(group, [*stored[group], *mutations[group], *joins[group]], values, groups) for group in every]
    epilogue, returned = _slice(None, module.graph.output_node().all_input_nodes, values, groups)
    used = returned.union(*(inputs for _, inputs in slices))
    regions = []
    for group in every:
        targets = used.intersection(stored[group]).union(mutations[group])
        nodes, inputs = _slice(group, targets.union(joins[group]), values, groups)
        regions.append(Region(group, *(tuple(sorted(part)) for part in (nodes, inputs, targets))))
    return regions, tuple(sorted(epilogue))


def _joins(members: Iterable[int], values: StoredValues) -> set[fx.Node]:
    """Return the concatenations whose pieces a group reads: made before, because a use of a piece decides where it is."""
    return {values.joins[name] for member in members for name in values.reads[member] if name in values.joins}


def _slice(
    group: int | None, targets: Iterable[fx.Node], values: StoredValues, groups: Partition
) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the nodes that a group computes to get `targets`, and the values that it takes from outside. None: no group."""
    read = None if group is None else frozenset().union(*(values.reads[m] for m in groups.members[group]))
    nodes: set[fx.Node] = set()
    inputs: set[fx.Node] = set()
    pending = list(targets)
    while pending:
        node = pending.pop()
        if node in nodes or node in inputs:
            continue
        if _comes_from_outside(node, group, read, values, groups):
            inputs.add(node)
        else:
            nodes.add(node)
            pending.extend(node.all_input_nodes)
    return nodes, inputs


def _comes_from_outside(
    node: fx.Node, group: int | None, read: frozenset[str] | None, values: StoredValues, groups: Partition
) -> bool:
    if node.op in ("placeholder", "get_attr") or is_host_value(node):
        return True
    if node in values.mutators:
        return groups.of[values.mutators[node][0]] != group
    buffer = values.buffer.get(node, "")
    if buffer not in values.owner or groups.of[values.owner[buffer]] == group:
        return False
    # A view is computed again where it is used. A value that the group does not read was inlined into it.
    return values.root[buffer] is node and (read is None or buffer in read)
