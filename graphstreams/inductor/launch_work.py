"""Tell what each launch of a kernel does, as far as its price depends on it.

Called inside `V.set_graph_handler` of the graph that the nodes belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from torch._inductor.dependencies import MemoryDep

from graphstreams.inductor import operands, scheduler_nodes
from graphstreams.inductor.accesses import accesses, data_reads, hint
from graphstreams.inductor.arithmetic import arithmetic_dtype, rounded
from graphstreams.inductor.collective_operators import role
from graphstreams.inductor.collectives import message_bytes, ranks_of
from graphstreams.inductor.operator_arithmetic import BATCHED, CONVOLUTION, Arithmetic, arithmetic_of, operator_name, total
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.kernels import LaunchWork

VECTOR = 8  # channels that the kernels of cuDNN for tensor cores load at a time


def launch_work(nodes: Sequence[Any], storages: AliasSets) -> tuple[LaunchWork, ...]:
    """Return the work of each scheduler node that launches something, in order."""
    return tuple(_work(node, storages) for node in nodes if scheduler_nodes.launch_count(node))


def _work(node: Any, storages: AliasSets) -> LaunchWork:
    if role(node):
        return _communication(node)
    operator = operands.operator(node)
    arithmetic = _arithmetic(node, operator)
    size = sum((access.bytes for touched in accesses([node], storages) for access in touched), sympy.S.Zero)
    batched = operator in BATCHED
    return LaunchWork(
        kind=scheduler_nodes.kind([node]),
        bytes=size,
        launches=scheduler_nodes.launch_count(node),
        operator=operator,
        dtype=rounded(arithmetic_dtype([node]), operator),
        flops=arithmetic.flops,
        inner=arithmetic.inner,
        matrices=arithmetic.matrices,
        streamed=operands.streamed_bytes(node) if batched else sympy.S.Zero,
        vectors=operands.vector_results(node) if batched else sympy.S.Zero,
        gathers=any(isinstance(dep, MemoryDep) and dep.is_indirect() for dep in data_reads(node)),
        rearranged=operator == CONVOLUTION and operands.rearranged(node),
        narrow=operator == CONVOLUTION and hint(arithmetic.channels) < VECTOR,
        known_us=scheduler_nodes.known_us(node),
    )


def _communication(node: Any) -> LaunchWork:
    """Return the work of a collective, or of a wait, which by itself does nothing."""
    if role(node) == "wait":
        return LaunchWork("wait", sympy.S.Zero)
    operator = operands.operator(node)
    return LaunchWork("collective", message_bytes(node), operator=operator, ranks=ranks_of(node))


def _arithmetic(node: Any, operator: str) -> Arithmetic:
    """Return the arithmetic of an operator or a template. What Inductor generates itself is bound by its bytes."""
    if not operator and not node.is_template():
        return Arithmetic()
    found = [(operator_name(origin), arithmetic_of(origin)) for origin in scheduler_nodes.origins(node)]
    known = [(name, arithmetic) for name, arithmetic in found if arithmetic is not None]
    own = [arithmetic for name, arithmetic in known if name == operator]
    return total(own or [arithmetic for _, arithmetic in known])
