"""Read the kernels of a post-grad graph from Inductor's own scheduler.

`read` lowers the graph, takes the fused scheduler nodes as kernels, and finds for each the region of FX nodes that computes
it: the backward slice from the values it realises to the values that other kernels realise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from graphstreams.errors import Unsupported
from graphstreams.inductor import scheduler_nodes
from graphstreams.inductor.lowering import Lowered, is_early_view, lower, storage_name, stored_strides
from graphstreams.inductor.memory import peak_memory
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.reading import Reading, RealizedValue, Region
from graphstreams.reading import naming
from graphstreams.reading.condensation import Partition, acyclic_partition
from graphstreams.reading.dependences import Touched, dependences
from graphstreams.reading.eligibility import check_graph, check_nodes, is_host_value, mutates


def read(module: fx.GraphModule, name: str = "graph", input_names: Sequence[str] = (), settings: Any = None) -> Reading:
    """The kernels that Inductor will launch for `module`, a post-grad graph on which its last passes have run.

    `input_names` are the names of the graph's inputs in the source, by the position that AOTAutograd gives them.
    Raises Unsupported, with the reason, for a graph that has to stay serial.
    """
    check_graph(module)
    lowered = lower(module, settings=settings)
    check_nodes(lowered.nodes)
    with lowered.active():
        return _read(module, lowered, name, input_names)


def _read(module: fx.GraphModule, lowered: Lowered, name: str, input_names: Sequence[str]) -> Reading:
    values = _Values(lowered)
    storages = _storages(lowered)
    groups = _group(lowered, values, storages)
    regions = _regions(module, values, groups)
    kernels = [_kernel(index, region, groups, lowered, storages, input_names) for index, region in enumerate(regions)]
    named = naming.unique_names(kernels)
    edges = dependences([_touched_by(kernel) for kernel in named])
    graph = KernelGraph(name, tuple(named), edges, scheduler_nodes.size_hints(lowered))
    host = tuple(n for n in module.graph.nodes if n.op == "call_function" and is_host_value(n))
    last = tuple(sorted(epilogue(module, values, groups)[0], key=values.order.__getitem__))
    order = tuple(groups.of[i] for i, node in enumerate(lowered.nodes) for _ in range(scheduler_nodes.launch_count(node)))
    named_values = [*module.graph.find_nodes(op="placeholder"), *(t for region in regions for t in region.targets)]
    stored = {node: storages.storage(values.buffer[node]) for node in named_values if node in values.buffer}
    mutated = tuple(sorted(lowered.graph.mutated_inputs))
    realized = _realised(lowered, [t for region in regions for t in region.targets])
    return Reading(module, graph, tuple(regions), host, last, order, peak_memory(lowered), stored, mutated, realized)


def _realised(lowered: Lowered, targets: Iterable[fx.Node]) -> dict[fx.Node, RealizedValue]:
    operations = enumerate(lowered.graph.operations)
    position = {buffer.get_name(): i for i, operation in operations for buffer in operation.get_outputs()}
    found = {}
    for target in targets:
        name = storage_name(lowered.values[target])
        if name in position:
            found[target] = RealizedValue(position[name], stored_strides(lowered, target), _early_views(lowered, target))
    return found


def _early_views(lowered: Lowered, target: fx.Node) -> tuple[fx.Node, ...]:
    found = [target]
    for node in found:
        found += [user for user in node.users if user.all_input_nodes == [node] and is_early_view(lowered, user)]
    return tuple(sorted(found[1:]))


class _Values:
    """Where the value of each FX node lives once the graph is lowered."""

    def __init__(self, lowered: Lowered) -> None:
        self.owner: dict[str, int] = {}  # buffer -> scheduler node that makes it
        for position, node in enumerate(lowered.nodes):
            for buffer in node.get_buffer_names():
                self.owner[buffer] = position
        self.order = {node: i for i, node in enumerate(lowered.values)}
        self.buffer: dict[fx.Node, str] = {}  # node -> the buffer that holds its value, through views
        self.root: dict[str, fx.Node] = {}  # buffer -> the first node whose value it holds
        for node, value in lowered.values.items():
            stored = None if isinstance(value, list | tuple) else storage_name(value)
            if stored is not None:
                self.buffer[node] = stored
                self.root.setdefault(stored, node)
        self.mutators = _mutators(lowered)
        self.reads = [_read_names(node, lowered) for node in lowered.nodes]


def _touched(node: Any, storages: AliasSets, lowered: Lowered) -> Touched:
    reads = {storages.storage(name) for name in _read_names(node, lowered)}
    writes = {storages.storage(name) for name in node.get_buffer_names()}
    return Touched(tuple(sorted(reads)), tuple(sorted(writes.union(scheduler_nodes.semaphores(node)))))


def _touched_by(kernel: Kernel) -> Touched:
    reads, writes = (tuple(access.storage for access in part) for part in (kernel.reads, kernel.writes))
    return Touched(reads, writes, kernel.exclusive)


def _read_names(node: Any, lowered: Lowered) -> frozenset[str]:
    """Buffers that a scheduler node reads; a mutated one by the name it was made with, which is the one FX values have."""
    made = lowered.graph.scheduler.mutation_real_name
    return frozenset(made.get(dep.name, dep.name) for dep in scheduler_nodes.data_reads(node))


def _mutators(lowered: Lowered) -> dict[fx.Node, list[int]]:
    """The scheduler nodes that carry out each mutating FX node."""
    found: dict[fx.Node, list[int]] = {n: [] for n in lowered.values if mutates(n)}
    for position, node in enumerate(lowered.nodes):
        for origin in scheduler_nodes.origins(node):
            if origin in found:
                found[origin].append(position)
    for node in [n for n, positions in found.items() if not positions]:
        if not _copies_itself(node, lowered):
            raise Unsupported(f"no kernel carries out the mutation {node.name!r}")
        del found[node]
    return found


def _copies_itself(node: fx.Node, lowered: Lowered) -> bool:
    """Whether the node copies a buffer onto itself, which is left of a mutation that was made in place."""
    if node.target is not torch.ops.aten.copy_.default:
        return False
    target, source = (storage_name(lowered.values[n]) if isinstance(n, fx.Node) else None for n in node.args[:2])
    return target is not None and target == source


def _group(lowered: Lowered, values: _Values, storages: AliasSets) -> Partition:
    """Scheduler nodes that have to stay together, because no FX value stands for a buffer between them."""
    must_merge: list[tuple[int, int]] = []
    readers: dict[str, list[int]] = {}
    for position, names in enumerate(values.reads):
        for name in names:
            readers.setdefault(name, []).append(position)
    carried = {p for positions in values.mutators.values() for p in positions}
    for position, node in enumerate(lowered.nodes):
        for output in node.get_outputs():
            name = output.get_name()
            if name not in values.root and not output.get_mutations():
                must_merge.extend((position, reader) for reader in readers.get(name, ()))
            if position not in carried:
                # A step of one operator, such as the atomic additions of a scatter to the copy that it makes.
                must_merge.extend((position, values.owner[m]) for m in output.get_mutations() if m in values.owner)
        if scheduler_nodes.launches_nothing(node):
            must_merge.extend(_with_pieces(position, node, values, readers))
    for positions in values.mutators.values():
        must_merge.extend((positions[0], other) for other in positions[1:])
    links = [(e.before, e.after) for e in dependences([_touched(n, storages, lowered) for n in lowered.nodes])]
    return acyclic_partition(len(lowered.nodes), must_merge, links)


def _with_pieces(position: int, node: Any, values: _Values, readers: dict[str, list[int]]) -> Iterable[tuple[int, int]]:
    """A node without a launch belongs to what writes its pieces (a concatenation), or else to its first reader."""
    pieces = [values.owner[name] for name in sorted(values.reads[position]) if name in values.owner]
    if pieces:
        return [(position, piece) for piece in pieces]
    first = [min(readers[b]) for b in node.get_buffer_names() if readers.get(b)]
    return [(position, min(first))] if first else []


def _regions(module: fx.GraphModule, values: _Values, groups: Partition) -> list[Region]:
    """Each group's slice of the graph, with only those values as targets that another region or the output uses."""
    seeds: list[list[fx.Node]] = [[] for _ in groups.members]
    for buffer, root in values.root.items():
        if buffer in values.owner:
            seeds[groups.of[values.owner[buffer]]].append(root)
    always: list[list[fx.Node]] = [[] for _ in groups.members]
    for node, positions in values.mutators.items():
        always[groups.of[positions[0]]].append(node)
    slices = [_slice(g, [*seeds[g], *always[g]], values, groups) for g in range(len(groups.members))]
    used = set().union(*(inputs for _, inputs in slices), epilogue(module, values, groups)[1])
    regions = []
    for group in range(len(groups.members)):
        targets = {n for n in seeds[group] if n in used} | set(always[group])
        nodes, inputs = _slice(group, targets, values, groups)
        regions.append(Region(group, *(tuple(sorted(part, key=values.order.__getitem__)) for part in (nodes, inputs, targets))))
    return regions


def epilogue(module: fx.GraphModule, values: _Values, groups: Partition) -> tuple[set[fx.Node], set[fx.Node]]:
    """Nodes between the regions' values and the graph's outputs, and the values that they start from."""
    return _slice(-1, module.graph.output_node().all_input_nodes, values, groups)


def _slice(group: int, targets: Iterable[fx.Node], values: _Values, groups: Partition) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes that the group computes to get `targets`, and the values that it takes from elsewhere."""
    read = frozenset().union(*(values.reads[m] for m in groups.members[group])) if group >= 0 else None
    nodes: set[fx.Node] = set()
    inputs: set[fx.Node] = set()
    pending = list(targets)
    while pending:
        node = pending.pop()
        if node in nodes or node in inputs:
            continue
        if _comes_from_elsewhere(node, group, read, values, groups):
            inputs.add(node)
        else:
            nodes.add(node)
            pending.extend(node.all_input_nodes)
    return nodes, inputs


def _comes_from_elsewhere(node: fx.Node, group: int, read: frozenset[str] | None, values: _Values, groups: Partition) -> bool:
    if node.op in ("placeholder", "get_attr") or is_host_value(node):
        return True
    if node in values.mutators:
        return groups.of[values.mutators[node][0]] != group
    buffer = values.buffer.get(node)
    position = values.owner.get(buffer) if buffer is not None else None
    if position is None or groups.of[position] == group:
        return False
    # A view is computed again where it is used; a value that this kernel does not read was inlined into it.
    return values.root[buffer] is node and (read is None or buffer in read)  # type: ignore[index]


def _storages(lowered: Lowered) -> AliasSets:
    storages = AliasSets(lowered.graph.graph_inputs)
    for node in lowered.nodes:
        for output in node.get_outputs():
            for other in (*output.get_aliases(), *output.get_mutations()):
                storages.merge(other, output.get_name())
    return storages


def _kernel(
    index: int, region: Region, groups: Partition, lowered: Lowered, storages: AliasSets, input_names: Sequence[str]
) -> Kernel:
    nodes = [lowered.nodes[m] for m in groups.members[index]]
    reads, writes = scheduler_nodes.accesses(nodes, lowered, storages)
    origins = scheduler_nodes.ordered_origins(nodes)
    parameters = naming.parameters(region, input_names)
    returned = {storages.storage(name) for name in lowered.graph.get_output_names()}
    allocated = [output.get_name() for n in nodes for output in n.get_outputs() if _allocates_itself(output)]
    exclusive_reason = scheduler_nodes.exclusive_reason(nodes)
    return Kernel(
        id=index,
        name=naming.source_name(region, origins, parameters),
        kind=scheduler_nodes.kind(nodes),
        nodes=tuple(n.name for n in region.targets),
        launches=tuple(name for n in nodes for name in scheduler_nodes.launch_names(n)),
        reads=reads,
        writes=writes,
        flops=scheduler_nodes.flops(origins),
        dtype=scheduler_nodes.arithmetic_dtype(nodes, lowered),
        ops=scheduler_nodes.operations(origins),
        parameters=parameters,
        exclusive=bool(exclusive_reason) or not region.nodes,
        exclusive_reason=exclusive_reason,
        allocates_output=not returned.isdisjoint(storages.storage(name) for name in allocated),
    )


def _allocates_itself(output: Any) -> bool:
    """Whether the operator allocates this buffer, and not the wrapper ahead of it."""
    return not (output.node.should_allocate() or output.get_mutations() or output.get_aliases())
