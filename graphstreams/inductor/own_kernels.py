"""Put launches of this package's Triton kernels into a post-grad graph, as if the model's author had written them.

Inductor then generates plain launches for them, which are read, planned and proved like those of any kernel of a user's.
Read in torch 2.15.0: `_higher_order_ops/triton_kernel_wrap.py`, `_inductor/graph.py` (run_node, for layouts),
`_inductor/ir.py` (UserDefinedTritonKernel), `_inductor/fx_passes/reinplace.py`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor import config

from graphstreams.inductor.scheduler_nodes import KNOWN_US
from graphstreams.inductor.size_nodes import SizeNodes, expressions
from graphstreams.kernels.launches import Buffer, Launch, Program

NOTES = "graphstreams_kernels"  # key in the meta of a GraphModule; its value are notes on the kernels that it was given
DIMENSIONS = 3  # of a grid as the launcher that Inductor generates takes it; Dynamo fills up a user's
LAYOUTS_MAY_CHANGE = "Inductor's setting triton_kernel_default_layout_constraint lets kernels have inputs of other strides"

_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "from_node", "seq_nr")


def keeps_layouts() -> bool:
    """Return whether Inductor gives kernels their inputs with the strides that the graph has."""
    given = config.triton_kernel_default_layout_constraint  # type: ignore[attr-defined]
    return bool(given == "needs_fixed_stride_order")


def add_notes(gm: fx.GraphModule, notes: Sequence[str]) -> None:
    """Add to the notes in a graph's meta, for the report."""
    if notes:
        gm.meta[NOTES] = (*gm.meta.get(NOTES, ()), *notes)


def launch_program(
    graph: fx.Graph, node: fx.Node, work: Program, operands: Mapping[str, fx.Node], kernel: Callable[[str], Any], us: float,
    shapes: Mapping[str, Sequence[int | torch.SymInt]],
) -> dict[str, fx.Node]:  # fmt: skip
    """Add the launches of `work` before `node`, whose place they take, and return all tensors by name as they are after it.

    `operands` are nodes by the names that launches have, `kernel` returns a kernel by its name. The launches take `us` us
    together, 0 if that is not known. Buffers in `shapes` have the shape that is given there instead of their own.
    """
    sizes, like = SizeNodes(graph), next(iter(operands.values())).meta["val"]
    made = dict(operands)
    for each in work.buffers:
        made[each.name] = _empty(graph, node, each, shapes.get(each.name, each.shape), like, sizes)
    for launch in work.launches:
        function = _tuned(kernel(launch.kernel), launch.warps, us / len(work.launches))
        made.update(_launch(graph, node, launch, function, made, sizes))
    return made


def stored(graph: fx.Graph, x: fx.Node) -> fx.Node:
    """Return a node that stands for a value in memory: else each launch has what computes it stored once more for itself.

    One that was added for an earlier launch is used again.
    """
    value, operator = x.meta["val"], torch.ops.prims.inductor_force_stride_order.default
    sizes, strides = SizeNodes(graph), value.stride()
    told = all(map(sizes.can_tell, expressions(strides)))
    arguments = x, _as_nodes(strides, sizes) if told else list(strides)  # Inductor asks for their order only
    for user in x.users:
        if user.target is operator and (user.args[0], list(user.args[1])) == arguments:  # type: ignore[arg-type]
            return user
    node = graph.call_function(operator, arguments)
    node.meta = {**x.meta, "val": value}
    return node


def _empty(
    graph: fx.Graph, origin: fx.Node, buffer: Buffer, shape: Sequence[int | torch.SymInt], like: torch.Tensor,
    sizes: SizeNodes,
) -> fx.Node:  # fmt: skip
    """Add a buffer's allocation."""
    value = like.new_empty(list(shape), dtype=buffer.dtype)
    options: dict[str, Any] = {"dtype": buffer.dtype, "layout": torch.strided, "device": like.device, "pin_memory": False}
    given = _as_nodes(shape, sizes), list(value.stride())
    return noted(graph.call_function(torch.ops.aten.empty_strided.default, given, options), origin, value)


def _as_nodes(numbers: Sequence[int | torch.SymInt], sizes: SizeNodes) -> list[Any]:
    """Return numbers as a graph has them: dynamic ones as nodes."""
    return [sizes.node(each) for each in expressions(numbers)]


def _launch(
    graph: fx.Graph, origin: fx.Node, launch: Launch, function: Any, buffers: Mapping[str, fx.Node], sizes: SizeNodes
) -> dict[str, fx.Node]:  # fmt: skip
    """Add a launch of `function`, and return the buffers that it writes as they are after it."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    written = [name for name in launch.tensors.values() if name in launch.writes]
    tensors = {parameter: buffers[name] for parameter, name in launch.tensors.items()}
    parameters = {name: parameter for parameter, name in launch.tensors.items()}
    numbers = dict(zip(launch.numbers, _as_nodes([*launch.numbers.values()], sizes), strict=True))
    arguments = {**tensors, **numbers, **launch.constants}
    grid = (*launch.grid, 1, 1)[:DIMENSIONS]
    given: dict[str, Any] = {
        "kernel_idx": kernel_side_table.add_kernel(function),
        "constant_args_idx": _no_constants(),
        "grid": [tuple(_as_nodes(grid, sizes))],
        "tma_descriptor_metadata": {},
        "kwargs": arguments,
        "tensors_to_clone": [parameters[name] for name in written],
    }
    after = {parameters[name]: buffers[name].meta["val"].clone() for name in written}
    call = graph.call_function(torch.ops.higher_order.triton_kernel_wrapper_functional, (), given)
    noted(call, origin, after)
    values = {name: each.meta["val"] if isinstance(each, fx.Node) else each for name, each in arguments.items()}
    # By these Inductor gives the kernel its inputs with the very strides that are among its numbers.
    call.meta["eager_input_vals"] = ((), {**given, "grid": [grid], "kwargs": values})
    return {
        name: noted(graph.call_function(operator.getitem, (call, parameters[name])), origin, after[parameters[name]])
        for name in written
    }


def noted(node: fx.Node, origin: fx.Node, value: Any) -> fx.Node:
    """Return a new node with its value noted, and where `origin`, whose place it takes, comes from."""
    node.meta.update({key: origin.meta[key] for key in _KEPT_META if key in origin.meta})
    node.meta["val"] = value
    return node


def _no_constants() -> int:
    """Return the number of no constant arguments in torch's table: one and the same as long as the table holds it.

    A number that is new for each launch would make the texts of equal graphs, by which plans are kept, differ.
    """
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    for number, constants in kernel_side_table.constant_args.items():
        if constants == {}:
            return int(number)
    return int(kernel_side_table.add_constant_args({}))


@functools.cache
def _tuned(kernel: Any, warps: int, us: float) -> Any:
    """Return a kernel that is launched with so many warps, which the graph's operator for kernels can't be told otherwise.

    `us` is what it was measured to take, 0 if that is not known.
    """
    import triton

    tuned = triton.autotune(configs=[triton.Config({}, num_warps=warps)], key=[])(kernel)
    setattr(tuned, KNOWN_US, us)
    return tuned
