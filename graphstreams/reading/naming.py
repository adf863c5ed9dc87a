"""Name kernels and graph inputs after the modules and functions of the source that they come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.inductor.scheduler_nodes import user_kernel
from graphstreams.ir.kernels import Kernel
from graphstreams.ir.module_paths import path_of
from graphstreams.ir.reading import Region

OTHER_NAMES = {"inductor_force_stride_order": "copy"}  # of operations whose own tells little
PREFETCH = "prefetch_"  # how the names of kernels begin that bring a weight into the cache and compute nothing of its module
# Of code behind a break: names hold lines, which move (read in torch 2.15.0, `_dynamo/resume_execution.py`).
_RESUMED = re.compile(r"^torch_dynamo_resume_in_(\w+)_at_\d+$")
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


def source_name(region: Region, nodes: Sequence[fx.Node], read: Sequence[str]) -> str:
    """Return the module whose parameter a kernel reads; if it reads none, the module and function of its last operation.

    `nodes` went into the kernel, in graph order. `read` are the names that `parameters` returns.
    """
    owners = [name.rpartition(".")[0] for name in read if "." in name and ":" not in name]
    chosen = [*reversed(region.targets), *reversed(nodes)]
    if owners:
        return f"{owners[0]}.{what}" if (what := _what(chosen)).startswith(PREFETCH) else owners[0]
    path = next((path for node in chosen if (path := _module_path(node))), "")
    function = next((name for node in chosen if (name := _function(node))), "").strip("_")
    parts = [path, function if function not in ("", "forward") else "", _what(chosen)]
    return ".".join(part for part in parts if part)


def modules_of(region: Region, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Return the modules that a kernel computes something of: those that the values which it realizes stand in.

    They are expressions, as Dynamo reads them. `nodes` went into the kernel; they count if it realizes no value of a module.
    """
    found = {each for node in region.targets for each in _module_stack(node)}
    return tuple(sorted(found or {each for node in nodes for each in _module_stack(node)}))


def _module_stack(node: fx.Node) -> list[str]:
    return [expression for expression, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _what(nodes: Sequence[fx.Node]) -> str:
    kernels = [n for n in nodes if n.target is torch.ops.higher_order.triton_kernel_wrapper_mutation]
    named = [n.target._opname.rstrip("_") for n in nodes if isinstance(n.target, torch._ops.OpOverload)]
    if kernels and (not named or named[0] in ALLOCATIONS):  # what a user's kernel writes was allocated before it
        return user_kernel(kernels[0])
    return OTHER_NAMES.get(named[0], named[0]) if named else "output"


def _module_path(node: fx.Node) -> str:
    stack = _module_stack(node)
    return path_of(stack[-1]) if stack else ""


def _function(node: fx.Node) -> str:
    """Return the function that a node's line stands in; for code behind a break the one that Dynamo has cut."""
    frames = re.findall(r"line \d+, in (\w+)", node.meta.get("stack_trace") or "")
    return _RESUMED.sub(r"\1", frames[-1]) if frames else ""


def parameters(region: Region, input_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the graph inputs that a region reads, as the source calls them if that is known."""
    return tuple(_input_name(node, input_names) for node in region.inputs if node.op in ("placeholder", "get_attr"))


def named_inputs(module: fx.GraphModule, input_names: Sequence[str]) -> dict[str, str]:
    """Return what the source calls each input of a graph, as in `parameters`; by the name of its node."""
    return {node.name: _input_name(node, input_names) for node in module.graph.find_nodes(op="placeholder")}


def _input_name(node: fx.Node, names: Sequence[str]) -> str:
    index = getattr(node.meta.get("desc"), "idx", None)
    if index is not None and index < len(names):
        return path_of(names[index]) or names[index]
    users = [path for user in node.users if (path := _module_path(user))]
    return f"{users[0]}:{node.name}" if users else node.name


def sizes_named(module: fx.GraphModule, size: sympy.Expr, input_names: Sequence[str]) -> str:
    """Return which dimension of which input each dynamic size in an expression is; empty if no tensor has it."""
    found: dict[str, str] = {}
    for node in module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for dimension, own in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(own, torch.SymInt) and own.node.expr in size.free_symbols:
                name = _input_name(node, input_names)
                found.setdefault(str(own.node.expr), f"{own.node.expr} is size {dimension} of {name!r}")
    return ", ".join(found[name] for name in sorted(found))


def unique_names(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Return the kernels with a number appended to each name that an earlier kernel has."""
    seen: Counter[str] = Counter()
    result = []
    for kernel in kernels:
        seen[kernel.name] += 1
        number = seen[kernel.name]
        result.append(kernel if number == 1 else replace(kernel, name=f"{kernel.name}#{number}"))
    return result


def inputs_by_position(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[int, Any]:
    """Return the inputs of a post-grad graph by position, if AOTAutograd tells which of the compiled function's they are.

    `inputs` are those of the compiled function.
    """
    found = {}
    for position, node in enumerate(module.graph.find_nodes(op="placeholder")):
        index = getattr(node.meta.get("desc"), "idx", None)
        if index is not None and index < len(inputs):
            found[position] = inputs[index]
    return found
