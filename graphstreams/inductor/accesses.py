"""Tell which storages scheduler nodes read and write, and how many bytes of each.

All functions are called inside `V.set_graph_handler` of the graph that the nodes belong to.
Read in torch 2.15.0: `_inductor/dependencies.py`, `_inductor/scheduler.py`, `_inductor/choices.py`,
`_inductor/codegen/common.py` (KernelArgs).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch._inductor import config, ir
from torch._inductor.dependencies import MemoryDep, StarDep, WeakDep
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.utils import get_dtype_size
from torch._inductor.virtualized import V

from graphstreams.inductor.exclusivity import resources
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.operands import operand_bytes
from graphstreams.inductor.scheduler_nodes import leaves
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.declarations import Declarations
from graphstreams.ir.kernels import Access


def data_reads(node: Any) -> list[Any]:
    """Return the dependencies of a scheduler node on data, without those that only keep an order."""
    return [dep for dep in node.read_writes.reads if not isinstance(dep, WeakDep)]


def semaphores(node: Any) -> tuple[str, ...]:
    """Return the storages by which the blocks of a launch may wait for each other; empty if they never wait.

    Inductor's scheduler does not know them. All cooperative reductions of a graph take the same one, at code generation, and
    count in it the blocks that have arrived (`KernelArgs.semaphores`). Two at a time would count each other's blocks.
    """
    if isinstance(node, ExternKernelSchedulerNode | NopKernelSchedulerNode):
        return ()
    reductions = [leaf.group for leaf in leaves(node) if leaf.is_reduction()]
    # With the setting on, any reduction may: a guard that comes later may tell how long one of dynamic size is.
    always = config.triton.cooperative_reductions
    if not any(always or V.choices.should_use_cooperative_reduction(device, *sizes) for device, sizes in reductions):
        return ()
    device = node.get_device()
    return (f"semaphores_{device.type}_{device.index}",)


def accesses(
    nodes: Sequence[Any], storages: AliasSets, declared: Declarations = (), parts: Collection[str] = (),
    ordered: Collection[str] = (),
) -> tuple[tuple[Access, ...], tuple[Access, ...]]:  # fmt: skip
    """Return the storages that scheduler nodes together read and write. What they make themselves does not count as read.

    `declared` is what is known of operators of other libraries, whose resources count as written. `parts` are buffers that are
    parts of a storage, with no byte in common, each written by an operator that touches no other byte. `ordered` are storages
    that count as read, of which nothing is moved.
    """
    made = {buffer for node in nodes for buffer in node.get_buffer_names()}
    mutated = {storages.storage(name) for node in nodes for output in node.get_outputs() for name in output.get_mutations()}
    reads = [(storage, sympy.S.Zero) for storage in sorted(ordered)]
    writes: list[tuple[str, sympy.Expr]] = []
    for node in nodes:
        taken = operand_bytes(node)
        for dep in data_reads(node):
            if dep.name not in made:
                storage = storages.storage(dep.name)
                # To keep an order only, Inductor lets a mutation read the whole buffer of which it changes a part.
                only_order = isinstance(dep, StarDep) and storage in mutated
                reads.append((storage, sympy.S.Zero if only_order else _less(bytes_touched(dep), taken.get(dep.name))))
        writes += [(storages.storage(dep.name), bytes_touched(dep)) for dep in node.read_writes.writes]
        writes += [(storages.storage(output.get_name()), sympy.S.Zero) for output in node.get_outputs()]
        writes += [(storage, sympy.S.Zero) for storage in (*semaphores(node), *resources(node, declared))]
    read = {storage for storage, _ in reads}
    only = {storages.storage(name): name for name in made if name in parts and storages.storage(name) not in read}
    return _by_storage(reads, {}), _by_storage(writes, only if len(nodes) == 1 else {})


def _by_storage(found: Iterable[tuple[str, sympy.Expr]], parts: Mapping[str, str]) -> tuple[Access, ...]:
    most: dict[str, sympy.Expr] = {}
    for storage, size in found:
        # Two accesses of one storage by one kernel mostly touch the same bytes.
        most[storage] = max(most.get(storage, sympy.S.Zero), size, key=hint)
    return tuple(Access(storage, size, parts.get(storage, "")) for storage, size in sorted(most.items()))


def bytes_touched(dep: Any) -> sympy.Expr:
    """Return how many bytes of its buffer a dependency stands for, in the graph's dynamic sizes."""
    try:
        whole = sympy.sympify(V.graph.get_numel(dep.name))
        item = get_dtype_size(V.graph.get_dtype(dep.name))
    except (NotImplementedError, KeyError, AttributeError):
        return sympy.S.Zero  # an output without a layout, such as a mutation's
    touched = whole
    if isinstance(dep, MemoryDep):
        # The product of no sizes, as of a gather of one element, is an int of Python.
        touched = sympy.sympify(sympy.prod(dep.size) if dep.is_indirect() else dep.get_numel())
    return (touched if hint(touched) < hint(whole) else whole) * item


def _less(size: sympy.Expr, other: sympy.Expr | None) -> sympy.Expr:
    return size if other is None or hint(size) <= hint(other) else other


def hint(expression: sympy.Expr) -> float:
    """Return the value of an expression at the example sizes; a size without an example counts as 8192."""
    return float(V.graph.sizevars.optimization_hint(expression, fallback=8192))


def held_memory(lowered: Lowered) -> int:
    """Return the bytes that are held during the whole graph at the example sizes: inputs and constants, weights included.

    Tensors that share a storage count once. Called inside `V.set_graph_handler` of the graph.
    """
    module: Any = lowered.graph.module
    placeholders = (node.meta.get("val") for node in module.graph.find_nodes(op="placeholder"))
    tensors = [value for value in (*placeholders, *lowered.graph.constants.values()) if isinstance(value, torch.Tensor)]
    storages = [value.untyped_storage() for value in tensors]
    sizes: list[Any] = list({storage._cdata: storage.nbytes() for storage in storages}.values())
    return int(sum(hint(size.node.expr) if isinstance(size, torch.SymInt) else size for size in sizes))


def size_hints(lowered: Lowered) -> dict[str, int]:
    """Return the example value of each dynamic size of the graph."""
    symbols = {s for value in lowered.graph.graph_inputs.values() for s in _symbols(value)}
    return {str(s): int(hint(s)) for s in sorted(symbols, key=str)}


def _symbols(value: Any) -> set[sympy.Symbol]:
    # An input may be an object without sizes, as the mesh that a DTensor is distributed over.
    sizes = [value] if isinstance(value, sympy.Expr) else value.maybe_get_size() if isinstance(value, ir.IRNode) else []
    return {s for size in sizes or () if isinstance(size, sympy.Expr) for s in size.free_symbols}
