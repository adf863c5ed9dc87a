"""Read the kernels of a post-grad graph from Inductor's own scheduler.

`read` lowers the graph, groups the fused scheduler nodes into kernels, and finds for each kernel the region of FX nodes that
computes it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import sympy
from torch import fx

from graphstreams.errors import Unsupported
from graphstreams.inductor import accesses, arithmetic, exclusivity, scheduler_nodes
from graphstreams.inductor.collectives import Collectives, collectives_of, group_of
from graphstreams.inductor.concatenation_kinds import note_kinds
from graphstreams.inductor.concatenations import divided, far_apart, pieces_of
from graphstreams.inductor.launch_work import launch_work
from graphstreams.inductor.lowering import (
    Lowered,
    copy_graph,
    is_early_view,
    lower,
    peak_memory,
    storage_name,
    stored_strides,
)
from graphstreams.inductor.operand_copies import copies_to_store, store_copies
from graphstreams.inductor.serial_values import with_values
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.declarations import Declarations
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.reading import Reading, RealizedValue, Region
from graphstreams.reading import naming
from graphstreams.reading.condensation import Partition, kernel_partition
from graphstreams.reading.dependences import StorageUse, dependences
from graphstreams.reading.eligibility import check_graph, check_nodes, is_host_code
from graphstreams.reading.slices import regions_of
from graphstreams.reading.stored_values import StoredValues, storages_of, stored_values, without_owner


def read(
    module: fx.GraphModule, name: str = "graph", input_names: Sequence[str] = (), settings: Any = None,
    declared: Declarations = (), serial: Lowered | None = None, order: Sequence[Hashable] = (),
) -> Reading:  # fmt: skip
    """Return the kernels that Inductor launches for `module`, a post-grad graph on which its last passes have run.

    `input_names` are the names of the graph's inputs in the source, by the position that AOTAutograd gives them, `settings`
    Inductor's settings to lower the graph with, and `declared` what is known of operators of other libraries. Copies that
    operators need get nodes of their own in `module`, whose metadata then says how concatenations are lowered. With `serial`,
    `module` as Inductor has lowered it, copies get them in a copy, and the graph is lowered again only if its kernels can't be
    read there. `order` are the labels of the serial code's collectives, in its order, if another lowering is read. Raises
    Unsupported, with the reason, if the graph has to stay serial.
    """
    check_graph(module)
    lowered = with_values(serial) if serial is not None else lower(module, settings=settings, stores_shared=True)
    copies = copies_to_store(lowered, storages_of(lowered)) if lowered is not None else []
    elementwise = far_apart(lowered) if lowered is not None else set()
    if lowered is None or (serial is not None and (copies or elementwise)):
        return read(copy_graph(module), name, input_names, settings, declared, order=order)
    note_kinds(lowered.values, elementwise)
    store_copies(module, copies)
    if copies or elementwise:
        lowered = lower(module, settings=settings, stores_shared=True)
    check_nodes(lowered.nodes)
    with lowered.active():
        found = _read(module, lowered, name, input_names, declared, order)
    return replace(found, of_serial=serial is not None)


def _read(
    module: fx.GraphModule, lowered: Lowered, name: str, input_names: Sequence[str], declared: Declarations,
    order: Sequence[Hashable],
) -> Reading:  # fmt: skip
    values, storages = stored_values(lowered), storages_of(lowered)
    collectives = collectives_of(lowered, storages)
    concatenations = divided(lowered)
    parts = frozenset().union(*concatenations.values())
    values = without_owner(values, [lowered.nodes[position] for position in concatenations], lowered)
    joins = frozenset(values.joins.values())
    groups = kernel_partition(lowered, values, storages, declared, concatenations, collectives, order or collectives.order)
    regions, epilogue = regions_of(module, values, groups)
    kernels = naming.unique_names(
        [
            _kernel(region, members, why, lowered, storages, input_names, declared, parts, collectives)
            for region, members, why in zip(regions, groups.members, groups.reasons, strict=True)
        ]
    )
    targets = [target for region in regions for target in region.targets]
    named = [*module.graph.find_nodes(op="placeholder"), *targets, *joins]
    launches = enumerate(scheduler_nodes.launch_count(node) for node in lowered.nodes)
    return Reading(
        module,
        KernelGraph(name, tuple(kernels), dependences([storage_use(k) for k in kernels]), accesses.size_hints(lowered)),
        regions=tuple(regions),
        host=tuple(n for n in module.graph.nodes if is_host_code(n)),
        epilogue=epilogue,
        order=tuple(groups.of[position] for position, count in launches for _ in range(count)),
        peak_memory=peak_memory(lowered),
        held_memory=accesses.held_memory(lowered),
        storages={node: storages.storage(values.buffer[node]) for node in named if node in values.buffer},
        mutated=tuple(sorted(lowered.graph.mutated_inputs)),
        realized=_realized(lowered, targets),
        concatenations=joins,
        owners={name: groups.of[position] for position, node in enumerate(lowered.nodes) for name in node.get_buffer_names()},
        divided=_divided([lowered.nodes[position] for position in concatenations], values, storages, groups),
    )


def _kernel(
    region: Region, members: Sequence[int], joined: str, lowered: Lowered, storages: AliasSets, input_names: Sequence[str],
    declared: Declarations, parts: Collection[str], collectives: Collectives,
) -> Kernel:  # fmt: skip
    nodes = [lowered.nodes[member] for member in members]
    until_then = frozenset().union(*(collectives.reads.get(member, frozenset()) for member in members))
    reads, writes = accesses.accesses(nodes, storages, declared, parts, until_then)
    origins = scheduler_nodes.origins(*nodes)
    parameters = naming.parameters(region, input_names)
    returned = {storages.storage(name) for name in lowered.graph.get_output_names()}
    allocated = {storages.storage(o.get_name()) for n in nodes for o in n.get_outputs() if _allocates_itself(o)}
    exclusive_reason = exclusivity.exclusive_reason(nodes, declared)
    collective = _role(region, members, collectives)
    starts = [lowered.nodes[member] for member in members if collectives.roles.get(member) == "start"]
    work = launch_work(nodes, storages)
    return Kernel(
        id=region.kernel,
        name=naming.source_name(region, origins, parameters),
        kind={"start": "collective", "wait": "wait"}.get(collective, "") or scheduler_nodes.kind(nodes),
        nodes=tuple(n.name for n in region.targets),
        launches=tuple(name for n in nodes for name in scheduler_nodes.launch_names(n)),
        reads=reads,
        writes=writes,
        flops=sum((each.flops for each in work), sympy.S.Zero),
        dtype=arithmetic.arithmetic_dtype(nodes),
        ops=arithmetic.operations(origins),
        work=work,
        parameters=parameters,
        exclusive=bool(exclusive_reason) or not region.nodes,
        exclusive_reason=exclusive_reason,
        joined=joined or scheduler_nodes.why_several(nodes),
        undeclared=exclusivity.undeclared(nodes, declared) if region.nodes else "",
        allocates_output=not returned.isdisjoint(allocated),
        collective=collective,
        group=group_of(starts[0]) if starts else "",
        modules=naming.modules_of(region, origins),
    )


def _role(region: Region, members: Sequence[int], collectives: Collectives) -> str:
    """Return whether a kernel starts a collective or waits for one. Raises Unsupported if it does more than that."""
    roles = {collectives.roles[member] for member in members if member in collectives.roles}
    if not roles:
        return ""
    launches = {member for member in members if member in collectives.roles}
    if len(launches) > 1 or not region.nodes:
        names = ", ".join(node.name for node in region.targets)
        raise Unsupported(f"what starts a collective and what waits for it can't be told apart ({names})")
    return roles.pop()


def _divided(
    concatenations: Iterable[Any], values: StoredValues, storages: AliasSets, groups: Partition
) -> dict[str, frozenset[int]]:
    """Return, for the storage of each concatenation, the kernels that write its pieces."""
    found = {}
    for node in concatenations:
        kernels = frozenset(groups.of[values.owner[name]] for name in pieces_of(node))
        found.update({storages.storage(name): kernels for name in node.get_buffer_names()})
    return found


def _allocates_itself(output: Any) -> bool:
    """Return whether an operator allocates this buffer, not the wrapper before it calls the operator."""
    return not (output.node.should_allocate() or output.get_mutations() or output.get_aliases())


def storage_use(kernel: Kernel) -> StorageUse:
    """Return the storages that a kernel reads and writes, and whether it keeps its place."""
    parts = tuple((access.storage, access.part) for access in kernel.writes if access.part)
    writes = tuple(access.storage for access in kernel.writes if not access.part)
    reads = tuple(access.storage for access in kernel.reads)
    return StorageUse(reads, writes, kernel.exclusive, bool(kernel.collective), parts)


def _realized(lowered: Lowered, targets: Iterable[fx.Node]) -> dict[fx.Node, RealizedValue]:
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
