"""What a scheduler node does, in the terms of `Kernel`: name, kind, bytes, FLOPs, parameters.

Everything here asks Inductor about nodes of one lowered graph, inside `V.set_graph_handler` of that graph.
Read in torch 2.15.0: `_inductor/scheduler.py`, `_inductor/dependencies.py`, `_inductor/ir.py`, `_inductor/choices.py`,
`_inductor/codegen/common.py` (KernelArgs), `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor import config, ir
from torch._inductor.dependencies import MemoryDep, StarDep, WeakDep
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.utils import get_dtype_size, get_fused_kernel_name
from torch._inductor.virtualized import V

from graphstreams.inductor import user_triton
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.kernels import Access

_GEMMS = {"mm", "bmm", "addmm", "baddbmm", "_scaled_mm", "_int_mm", "_grouped_mm", "_scaled_grouped_mm"}
_TRUSTED = {"aten", "prims", "inductor", "quantized", "_quantized", "higher_order"}


def leaves(node: Any) -> list[Any]:
    """The scheduler nodes that were fused into `node`."""
    return list(node.get_nodes())


def origins(node: Any) -> Iterator[fx.Node]:
    """FX nodes that went into a scheduler node."""
    for leaf in leaves(node):
        if leaf.node is not None:
            yield from leaf.node.get_origins()


def ordered_origins(nodes: Iterable[Any]) -> list[fx.Node]:
    """FX nodes that went into some scheduler nodes, in graph order, without repeats."""
    found = {origin for node in nodes for origin in origins(node)}
    return sorted(found)


def data_reads(node: Any) -> list[Any]:
    """Return the dependencies of a scheduler node on data, without those that only keep an order."""
    return [dep for dep in node.read_writes.reads if not isinstance(dep, WeakDep)]


def launches_nothing(node: Any) -> bool:
    """Return whether a scheduler node only gives memory a name, as a concatenation does whose pieces are written in place."""
    return isinstance(node, NopKernelSchedulerNode)


def is_subgraph(node: Any) -> bool:
    """Return whether a scheduler node runs a graph of several kernels, as for a product that max-autotune splits along K."""
    return isinstance(node.node, ir.SubgraphBuffer)


def launch_names(node: Any) -> list[str]:
    """What the wrapper launches for a scheduler node; empty where it launches nothing."""
    if isinstance(node, NopKernelSchedulerNode) or not _launches(node):
        return []
    if isinstance(node, ExternKernelSchedulerNode):
        inner: Any = node.node
        if isinstance(inner, ir.UserDefinedTritonKernel):
            return [user_triton.kernel_name(inner)]
        if isinstance(inner, ir.SubgraphBuffer):
            return _launch_names_inside(inner.subgraph)
        return [inner.python_kernel_name or str(inner.op_overload or type(inner).__name__)]
    category = "red" if any(leaf.is_reduction() for leaf in leaves(node)) else "poi"
    return [f"triton_{category}_{get_fused_kernel_name(leaves(node), 'original_aten')}"]


def _launch_names_inside(subgraph: Any) -> list[str]:
    """What a subgraph launches, which max-autotune may choose for a product; its scheduler is there once code is generated."""
    with V.set_graph_handler(subgraph):
        return [name for node in subgraph.scheduler.nodes for name in launch_names(node)]


def _launches(node: Any) -> bool:
    inner = node.node if isinstance(node, ExternKernelSchedulerNode) else None
    return not isinstance(inner, ir.MultiOutput | ir.OrderingBarrier)


def launch_count(node: Any) -> int:
    """How many kernels of the model the wrapper launches for a scheduler node."""
    return 0 if is_stream_operation(node) else len(launch_names(node))


def is_stream_operation(node: Any) -> bool:
    """Whether the scheduler node records, waits for or ties a lifetime to an event."""
    operation = getattr(node.node, "op_overload", None) if isinstance(node, ExternKernelSchedulerNode) else None
    return isinstance(operation, torch._ops.OpOverload) and operation.namespace == "streams"


def kind(nodes: Sequence[Any]) -> str:
    """ "gemm", "reduction", "pointwise", "template", "triton" or "extern"."""
    kinds = Counter(_kind(node) for node in nodes if launch_names(node))
    for candidate in ("gemm", "extern", "triton", "template", "reduction", "pointwise"):
        if kinds[candidate]:
            return candidate
    return "none"


def _kind(node: Any) -> str:
    if isinstance(node, ExternKernelSchedulerNode):
        if isinstance(node.node, ir.UserDefinedTritonKernel):
            return "triton"
        return "gemm" if _operation_name(node) in _GEMMS else "extern"
    if node.is_template():
        return "template"
    return "reduction" if any(leaf.is_reduction() for leaf in leaves(node)) else "pointwise"


def _operation_name(node: Any) -> str:
    operation = getattr(node.node, "op_overload", None)
    if isinstance(operation, torch._ops.OpOverload):
        return operation._opname
    return str(getattr(node.node, "python_kernel_name", "")).rsplit(".", 1)[-1]


def exclusive_reason(nodes: Sequence[Any]) -> str:
    """Return why a launch keeps its place against every other; empty if it need not.

    It has to if it promises nothing about what else it touches: a collective, a custom op, a random generator.
    """
    inner = [leaf for node in nodes for leaf in leaves(node)]
    reasons = (_exclusive_reason(leaf) for leaf in inner if isinstance(leaf, ExternKernelSchedulerNode))
    return next(filter(None, reasons), "")


def _exclusive_reason(node: Any) -> str:
    if isinstance(node.node, ir.UserDefinedTritonKernel):
        return user_triton.exclusive_reason(node.node)
    operation = getattr(node.node, "op_overload", None)
    if not isinstance(operation, torch._ops.OpOverload):
        return ""
    if operation.namespace not in _TRUSTED:
        return f"{operation} is not an operator of torch, and may touch more than its arguments"
    return f"{operation} draws random numbers" if _draws_random_numbers(node, operation) else ""


def _draws_random_numbers(node: Any, operation: torch._ops.OpOverload) -> bool:
    """Whether an operator draws random numbers. Those of attention are tagged so, but draw none if their dropout is 0."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    names = [argument.name for argument in operation._schema.arguments]
    origin = getattr(node.node, "fx_node", None)
    if "dropout_p" not in names or origin is None or origin.target is not operation:
        return True
    place = names.index("dropout_p")
    default = operation._schema.arguments[place].default_value
    given = origin.args[place] if place < len(origin.args) else origin.kwargs.get("dropout_p", default)
    return not (isinstance(given, int | float) and given == 0)


def semaphores(node: Any) -> tuple[str, ...]:
    """The storages by which the blocks of a launch may wait for each other; empty where they do not.

    Inductor's scheduler does not know them: all cooperative reductions of a graph take the same one, at code generation, and
    count the blocks that have arrived in it (`KernelArgs.semaphores`). Two at a time would count each other's blocks.
    """
    if isinstance(node, ExternKernelSchedulerNode | NopKernelSchedulerNode):
        return ()
    reductions = [leaf for leaf in leaves(node) if leaf.is_reduction()]
    if not any(_may_cooperate(*leaf.group) for leaf in reductions):
        return ()
    device = node.get_device()
    return (f"semaphores_{device.type}_{device.index}",)


def _may_cooperate(device: torch.device, sizes: Sequence[sympy.Expr]) -> bool:
    # With the setting on, any reduction: how long one of dynamic size is may be told by a guard that comes later.
    return config.triton.cooperative_reductions or V.choices.should_use_cooperative_reduction(device, *sizes)


def accesses(nodes: Sequence[Any], lowered: Lowered, storages: AliasSets) -> tuple[tuple[Access, ...], tuple[Access, ...]]:
    """Storages that the nodes together read and write, with bytes; what stays inside them does not count as read."""
    graph = lowered.graph
    made = {buffer for node in nodes for buffer in node.get_buffer_names()}
    reads: dict[str, sympy.Expr] = {}
    writes: dict[str, sympy.Expr] = {}
    mutated = {storages.storage(name) for node in nodes for output in node.get_outputs() for name in output.get_mutations()}
    for node in nodes:
        for dep in node.read_writes.reads:
            if not isinstance(dep, WeakDep) and dep.name not in made:
                storage = storages.storage(dep.name)
                # For order alone, Inductor lets a mutation read the whole buffer that it changes a part of.
                only_order = isinstance(dep, StarDep) and storage in mutated
                _add(reads, storage, sympy.S.Zero if only_order else _bytes(dep, graph))
        for dep in node.read_writes.writes:
            _add(writes, storages.storage(dep.name), _bytes(dep, graph))
        for output in node.get_outputs():
            writes.setdefault(storages.storage(output.get_name()), sympy.S.Zero)
        for storage in semaphores(node):
            writes.setdefault(storage, sympy.S.Zero)
    return _sorted(reads), _sorted(writes)


def _sorted(found: dict[str, sympy.Expr]) -> tuple[Access, ...]:
    return tuple(Access(storage, size) for storage, size in sorted(found.items()))


def _add(found: dict[str, sympy.Expr], storage: str, size: sympy.Expr) -> None:
    before = found.get(storage, sympy.S.Zero)
    # Two reads of one storage by one kernel mostly hit the same bytes.
    found[storage] = size if _hint(size) > _hint(before) else before


def _bytes(dep: Any, graph: Any) -> sympy.Expr:
    try:
        whole = sympy.sympify(graph.get_numel(dep.name))
        item = get_dtype_size(graph.get_dtype(dep.name))
    except (NotImplementedError, KeyError, AttributeError):
        return sympy.S.Zero  # outputs without a layout, such as a mutation's
    touched = whole
    if isinstance(dep, MemoryDep):
        touched = sympy.prod(dep.size) if dep.is_indirect() else sympy.sympify(dep.get_numel())
    return (touched if _hint(touched) < _hint(whole) else whole) * item


def _hint(expression: sympy.Expr) -> float:
    return float(V.graph.sizevars.optimization_hint(expression, fallback=8192))


def size_hints(lowered: Lowered) -> dict[str, int]:
    """Example value of each dynamic size of the graph."""
    graph = lowered.graph
    symbols = {s for value in graph.graph_inputs.values() for s in _symbols(value)}
    return {str(s): int(_hint(s)) for s in sorted(symbols, key=str)}


def _symbols(value: Any) -> set[sympy.Symbol]:
    sizes = [value] if isinstance(value, sympy.Expr) else value.get_size() if hasattr(value, "get_size") else []
    return {s for size in sizes if isinstance(size, sympy.Expr) for s in size.free_symbols}


def _expression(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))


def flops(nodes: Sequence[fx.Node]) -> sympy.Expr:
    """Floating-point operations of the matrix products among the nodes (2 M N K each); all else is bound by memory."""
    return sum((_gemm_flops(node) for node in nodes), sympy.S.Zero)


def _gemm_flops(node: fx.Node) -> sympy.Expr:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._opname not in _GEMMS:
        return sympy.S.Zero
    left = next((a for a in node.all_input_nodes if _rank(a) >= 2), None)
    result = node.meta.get("val")
    if left is None or not isinstance(result, torch.Tensor):
        return sympy.S.Zero
    factors = node.args[1 if node.target._opname in ("addmm", "baddbmm") else 0]
    inner = factors.meta["val"].shape[-1] if isinstance(factors, fx.Node) else left.meta["val"].shape[-1]
    return 2 * math.prod((_expression(s) for s in result.shape), start=_expression(inner))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else -1


def arithmetic_dtype(nodes: Sequence[Any], lowered: Lowered) -> str:
    """Dtype of the largest operand, which decides the rate of a matrix product."""
    largest, name = -1.0, ""
    for node in nodes:
        for dep in node.read_writes.reads:
            size = _hint(_bytes(dep, lowered.graph)) if not isinstance(dep, WeakDep) else 0
            if size > largest:
                largest, name = size, dep.name
    return str(lowered.graph.get_dtype(name)).removeprefix("torch.") if name and largest > 0 else ""


def operations(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Names of the ATen operations, sorted."""
    return tuple(sorted({n.target._opname for n in nodes if isinstance(n.target, torch._ops.OpOverload)}))
