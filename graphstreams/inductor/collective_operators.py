"""Know torch's collectives: which operators start one, which wait for one, and which reach other ranks in another way.

Read in torch 2.15.0: `_inductor/comm_lowering.py`, `_inductor/fx_passes/reinplace.py`, `_inductor/ir.py` (CommBufferLayout),
`distributed/_functional_collectives.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor import ir

from graphstreams.inductor.scheduler_nodes import leaves, operator_of
from graphstreams.inductor.settings import collective_settings

NAMESPACE = "_c10d_functional"
STARTS = frozenset({
    "all_reduce_", "all_reduce_coalesced_", "broadcast_", "all_gather_into_tensor", "all_gather_into_tensor_out",
    "all_gather_into_tensor_coalesced", "reduce_scatter_tensor", "reduce_scatter_tensor_out",
    "reduce_scatter_tensor_coalesced", "all_to_all_single",
})  # fmt: skip
WAITS = frozenset({"wait_tensor", "wait_tensors"})
# Namespaces of torch's operators that reach other ranks or their memory.
_COMMUNICATING = {
    NAMESPACE, "_c10d_functional_autograd", "c10d", "c10d_functional", "symm_mem", "_dtensor", "fsdp", "bucketing",
}  # fmt: skip
_OPERATORS: Any = getattr(torch.ops, NAMESPACE)
_IN_PLACE = {  # empty if this torch was built without distributed
    getattr(_OPERATORS, name).default: getattr(_OPERATORS, f"{name}_").default
    for name in ("all_reduce", "all_reduce_coalesced", "broadcast")
    if hasattr(_OPERATORS, f"{name}_")
}
_REDUCE = _IN_PLACE.get(_OPERATORS.all_reduce.default) if _IN_PLACE else None
_WAIT_OPERATORS = {getattr(_OPERATORS, name).default for name in WAITS if hasattr(_OPERATORS, name)}


def is_collective(node: fx.Node) -> bool:
    """Return whether a node starts a collective or waits for one."""
    return getattr(node.target, "namespace", "") == NAMESPACE


def settings_for(gm: fx.GraphModule) -> dict[str, Any]:
    """Return the settings that lower a graph beside those of `stream_settings`, because of its collectives."""
    return collective_settings() if any(map(is_collective, gm.graph.nodes)) else {}


def is_wait(node: fx.Node) -> bool:
    """Return whether a node waits for a collective, and so changes its argument, which the schema does not tell."""
    return node.target in _WAIT_OPERATORS


def is_copied(node: fx.Node) -> bool:
    """Return whether a node is a collective for which Inductor copies the input, and which then runs in place on the copy.

    It does so for collectives out of place, and for a reduction in place of what is not contiguous.
    """
    if not node.args:
        return False
    if node.target is _REDUCE:
        return not node.args[0].meta["val"].is_contiguous()  # type: ignore[union-attr]
    return node.target in _IN_PLACE


def start_in_place(gm: fx.GraphModule) -> None:
    """Let each collective of `gm` that Inductor lowers as a copy and a collective in place be these two operators.

    As one operator the copy and the start would be one kernel, of which only the start has to keep its place.
    """
    for node in list(gm.graph.nodes):
        if not is_copied(node):
            continue
        several = isinstance(node.args[0], list | tuple)
        with gm.graph.inserting_before(node):
            copies = [_copied(gm.graph, value, node) for value in (node.args[0] if several else [node.args[0]])]
        node.target = _IN_PLACE.get(node.target, node.target)
        node.args = (copies if several else copies[0], *node.args[1:])
    gm.recompile()


def _copied(graph: fx.Graph, value: fx.Node, collective: fx.Node) -> fx.Node:
    contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
    copy = graph.call_function(torch.ops.aten.clone.default, (value,), contiguous)
    # With the collective's own metadata, by which Inductor names the kernel of the copy.
    copy.meta = {**collective.meta, "val": value.meta["val"].clone(**contiguous)}
    return copy


def role(node: Any) -> str:
    """Return "start" for a scheduler node that starts a collective, "wait" for one that waits for one; empty for others."""
    operator = operator_of(node)
    if operator is None or operator.namespace != NAMESPACE:
        return ""
    return "start" if operator._opname in STARTS else "wait" if operator._opname in WAITS else ""


def unknown_communication(nodes: Sequence[Any]) -> str:
    """Return why scheduler nodes hold something that reaches other ranks in ways that are not known; empty if none does."""
    for node in (leaf for each in nodes for leaf in leaves(each)):
        operator = operator_of(node)
        if operator is not None and operator.namespace in _COMMUNICATING and not role(node):
            return f"{operator} communicates with other ranks, and what orders it with them is not known"
        if any(isinstance(output.node.maybe_get_layout(), ir.CommBufferLayout) for output in node.get_outputs()):
            return f"{node.get_name()} writes memory that other ranks reach (symmetric memory)"
    return ""
