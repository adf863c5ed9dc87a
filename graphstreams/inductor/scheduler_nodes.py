"""Tell what a scheduler node was made from, what it launches, and of which kind that is.

Of a whole graph: which kernels Inductor joins, which it chose by timing, where it cuts.
All functions are called inside `V.set_graph_handler` of the graph that the nodes belong to.
Read in torch 2.15.0: `_inductor/scheduler.py`, `_inductor/ir.py`, `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._inductor import ir
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.utils import get_fused_kernel_name
from torch._inductor.virtualized import V

from graphstreams.inductor.foreach import is_foreach, launched_together
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.kernels import KernelGraph

KNOWN_US = "graphstreams_us"  # attribute of a kernel in torch's table, if this package has put it there
MATRIX_PRODUCTS = {
    "mm", "bmm", "addmm", "bias_addmm", "baddbmm", "_int_mm", "_grouped_mm",
    "_scaled_mm", "_scaled_mm_v2", "_scaled_grouped_mm", "_scaled_grouped_mm_v2",
}  # fmt: skip


def leaves(node: Any) -> list[Any]:
    """Return the scheduler nodes that were fused into `node`."""
    return list(node.get_nodes())


def origins(*nodes: Any) -> list[fx.Node]:
    """Return the FX nodes that went into scheduler nodes, those of operands too, in graph order and without repeats."""
    inner = [leaf.node for node in nodes for leaf in leaves(node) if leaf.node is not None]
    return sorted({origin for each in inner for origin in each.get_origins()})


def operator_of(node: Any) -> torch._ops.OpOverload | None:
    """Return the operator that a scheduler node calls; None if it calls none, as a generated kernel does not."""
    operator = getattr(node.node, "op_overload", None)
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def stream_operation(node: Any) -> str:
    """Return which operator of `torch.ops.streams` a scheduler node calls, such as "record_event"; empty if none."""
    operator = operator_of(node)
    return operator._opname if operator is not None and operator.namespace == "streams" else ""


def launches_nothing(node: Any) -> bool:
    """Return whether a scheduler node only gives memory a name, as a concatenation does whose pieces are written in place."""
    return isinstance(node, NopKernelSchedulerNode)


def is_size_check(node: Any) -> bool:
    """Return whether a scheduler node lets the host check a size in each call, and nothing else."""
    return isinstance(node.node, ir.AssertScalar)


def is_subgraph(node: Any) -> bool:
    """Return whether a scheduler node runs a graph of several kernels, as for a product that max-autotune splits along K."""
    return isinstance(node.node, ir.SubgraphBuffer)


def launch_names(node: Any) -> list[str]:
    """Return the names of what the wrapper launches or calls for a scheduler node.

    A subgraph's are known only once code is generated, because its scheduler is made then.
    """
    inner: Any = node.node
    if launches_nothing(node) or isinstance(inner, ir.MultiOutput | ir.OrderingBarrier | ir.AssertScalar):
        return []
    if isinstance(inner, ir.UserDefinedTritonKernel):
        return [user_kernel_name(inner)]
    if isinstance(inner, ir.SubgraphBuffer):
        with V.set_graph_handler(inner.subgraph):
            return [name for each in inner.subgraph.scheduler.nodes for name in launch_names(each)]
    if isinstance(node, ExternKernelSchedulerNode):
        return [inner.python_kernel_name or str(inner.op_overload or type(inner).__name__)]
    if is_foreach(node):
        return [_joined_name(parts) for parts in launched_together(node)]
    return [_triton_name(node)]


def _triton_name(node: Any) -> str:
    category = "red" if _reduces(node) else "poi"
    return f"triton_{category}_{get_fused_kernel_name(leaves(node), 'original_aten')}"


def _joined_name(parts: Sequence[Any]) -> str:
    """Return the name of a launch of a foreach kernel; a part that is alone in its launch has a kernel of the usual form."""
    together = [leaf for part in parts for leaf in leaves(part)]
    return f"triton_for_{get_fused_kernel_name(together, 'original_aten')}" if len(parts) > 1 else _triton_name(parts[0])


def why_several(nodes: Sequence[Any]) -> str:
    """Return why Inductor splits a foreach kernel among scheduler nodes into several launches; empty if none is split."""
    split = any(is_foreach(node) and len(launched_together(node)) > 1 for node in nodes)
    return (
        "one foreach operator has parts that need kernels of their own, or more arguments than a launch takes" if split else ""
    )


def user_kernel_name(kernel: Any) -> str:
    """Return the name of the function that a user wrote in Triton."""
    return _function_name(kernel.kernel_idx)


def user_kernel(node: fx.Node) -> str:
    """Return the name of the function that a user wrote in Triton, and that a node of the graph launches."""
    return _function_name(node.kwargs["kernel_idx"])


def _function_name(index: Any) -> str:
    function = kernel_side_table.get_kernel(index)
    return str(getattr(getattr(function, "fn", function), "__name__", "triton_kernel"))


def known_us(node: Any) -> float:
    """Return the us that a kernel of this package was measured to take, by which it was chosen; 0 for every other launch."""
    if not isinstance(node.node, ir.UserDefinedTritonKernel):
        return 0.0
    return float(getattr(kernel_side_table.get_kernel(node.node.kernel_idx), KNOWN_US, 0.0))


def launch_count(node: Any) -> int:
    """Return how many kernels of the model the wrapper launches for a scheduler node."""
    return 0 if stream_operation(node) else len(launch_names(node))


def kind(nodes: Sequence[Any]) -> str:
    """Return the kind of the kernel that scheduler nodes make together, as in `Kernel`; "none" if they launch nothing."""
    kinds = {_kind(node) for node in nodes if launch_names(node)}
    return next((each for each in ("gemm", "extern", "triton", "template", "reduction", "pointwise") if each in kinds), "none")


def _kind(node: Any) -> str:
    if isinstance(node.node, ir.UserDefinedTritonKernel):
        return "triton"
    if isinstance(node, ExternKernelSchedulerNode):
        operator = operator_of(node)
        name = operator._opname if operator else str(getattr(node.node, "python_kernel_name", "")).rpartition(".")[2]
        return "gemm" if name in MATRIX_PRODUCTS else "extern"
    if node.is_template():
        return "template"
    return "reduction" if _reduces(node) else "pointwise"


def _reduces(node: Any) -> bool:
    return any(leaf.is_reduction() for leaf in leaves(node))


def joined_kernels(serial: Lowered, kernels: KernelGraph) -> list[set[int]]:
    """Return the kernels that each launch of the serial code joins, for launches that join several."""
    owner = {name: kernel.id for kernel in kernels.kernels for name in kernel.nodes}
    found = []
    for parts in (parts for node in serial.nodes if is_foreach(node) for parts in launched_together(node)):
        # The origins of a leaf include those of its operands; the last one is its own.
        owners = ([owner[o.name] for o in origins(leaf) if o.name in owner] for part in parts for leaf in leaves(part))
        found.append({each[-1] for each in owners if each})
    return [owners for owners in found if len(owners) > 1]


def most_saved_us(joined: Iterable[Iterable[int]], us: Sequence[float]) -> float:
    """Return the us that joined launches save at most: of each launch, the times of all kernels but the longest."""
    times = [[us[kernel] for kernel in kernels] for kernels in joined]
    return fsum(fsum(each) - max(each) for each in times if each)


def where_cut(serial: Lowered) -> str:
    """Return at which operator and why Inductor cuts a lowered graph into several CUDA graphs; empty if unknown."""
    for node in serial.nodes:
        if reason := serial.graph.scheduler.should_partition(node):
            names = launch_names(node)
            return f" at {names[0] if names else node.get_name()} ({reason})"
    return ""
