"""Check that a graph holds nothing that keeps it from running on several streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphstreams.errors import Unsupported
from graphstreams.inductor.collective_operators import is_wait
from graphstreams.inductor.opaque_objects import class_of_object, only_names
from graphstreams.inductor.scheduler_nodes import is_size_check, is_subgraph, origins
from graphstreams.inductor.stream_ops import control_deps, is_stream_operation, stream_of
from graphstreams.messages import listed

NO_CUDA_TENSORS = "it has no CUDA tensors: only kernels on a GPU run on streams"


def check_graph(module: fx.GraphModule) -> None:
    """Raise Unsupported if a graph cannot be rewritten, whatever its kernels are."""
    values = torch.utils._pytree.tree_leaves([node.meta.get("val") for node in module.graph.nodes])
    if not any(isinstance(value, torch.Tensor) and value.device.type == "cuda" for value in values):
        raise Unsupported(NO_CUDA_TENSORS)
    modules = dict(module.named_modules(remove_duplicate=False))
    for node in module.graph.nodes:
        if stream_of(node) is not None or is_stream_operation(node):
            raise Unsupported("the model places work on streams itself")
        if node.op == "get_attr" and isinstance(modules.get(str(node.target)), fx.GraphModule):
            if any(user.target is control_deps for user in node.users):
                cause = "as Inductor's aten_distributed_optimizations.enable_overlap_scheduling does"
                raise Unsupported(f"another pass keeps an order in it by control_deps ({node.target}), {cause}")
            raise Unsupported(f"it has a subgraph ({node.target}), from a control-flow or other higher-order operator")
        if node.target is torch.ops.higher_order.with_effects:
            raise Unsupported(f"it has an operator with effects that its schema does not tell ({node.args[1]})")
        if (kind := class_of_object(node.meta.get("val"))) and node.users and not only_names(node):
            takes = ", ".join(str(user.target) for user in node.users)
            raise Unsupported(f"it hands an object of class {kind} ({node.name}) to {takes}, and what that does is not known")
        if made := node.meta.get("unbacked_bindings"):
            raise Unsupported(_depends_on_data(node, list(map(str, made))))
        if is_host_value(node) and node.op == "call_function":
            _check_host_value(node)


def check_nodes(nodes: Sequence[Any]) -> None:
    """Raise Unsupported if scheduler nodes cannot run on streams of one CUDA device."""
    nodes = [node for node in nodes if not is_size_check(node)]
    devices = {node.get_device() for node in nodes} - {None}
    others = sorted({device.type for device in devices} - {"cuda"})
    if all(device.type != "cuda" for device in devices):
        raise Unsupported("it has no CUDA kernels")
    if others:
        raise Unsupported(f"it also computes on {others[0]!r}{_operators_on(nodes, others[0])}")
    if len(devices) > 1:
        raise Unsupported("it uses several CUDA devices")
    for node in nodes:
        if is_subgraph(node):
            # The settings on streams choose none. If there is one nevertheless, its kernels can't be placed one by one.
            raise Unsupported(f"Inductor runs a graph of several kernels for {_origin_names(node)}")


def _depends_on_data(node: fx.Node, sizes: Sequence[str]) -> str:
    """Return the reason for a graph with an operator that makes sizes, or numbers, which only the data tells."""
    lines = [line.strip() for line in node.meta.get("stack_trace", "").splitlines() if line.strip(" ^~")]
    place = f" in {lines[-1]!r}" if len(lines) > 1 else ""
    text = f"{node.name!r} ({node.target}{place}) has a size that depends on data ({listed(sizes)})"
    advice = "with torch._dynamo.graph_break() there, what comes before it and behind it is planned"
    return f"{text}, for which the host waits, so that no CUDA graph can hold it; {advice}"


def _operators_on(nodes: Sequence[Any], device: str) -> str:
    """Return the FX nodes behind the first scheduler node on a device, in parentheses; empty if none are known."""
    node = next(node for node in nodes if node.get_device() is not None and node.get_device().type == device)
    return f" ({names})" if (names := _origin_names(node)) else ""


def _origin_names(node: Any) -> str:
    return ", ".join(origin.name for origin in origins(node))


def is_host_value(node: fx.Node) -> bool:
    """Return whether the node's value is a number that the host computes from sizes."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def is_host_code(node: fx.Node) -> bool:
    """Return whether a node is computed by the host alone: a number from sizes, or a check of sizes."""
    return node.op == "call_function" and (is_host_value(node) or node.target is torch.ops.aten._assert_scalar.default)


def mutates(node: fx.Node) -> bool:
    """Return whether running the node changes one of its arguments."""
    if node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable or is_wait(node)
    return node.target is torch.ops.higher_order.triton_kernel_wrapper_mutation


def _check_host_value(node: fx.Node) -> None:
    for argument in node.all_input_nodes:
        if not is_host_value(argument) and argument.op != "placeholder":
            raise Unsupported(f"the number {node.name!r} comes from the computed tensor {argument.name!r}")
