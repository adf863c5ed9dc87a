"""Compare what two bodies of one graph have to agree on: outputs, changed inputs, constants.

Read in torch 2.15.0: `_inductor/graph.py` (graph_outputs, get_output_names, constants).
"""

from __future__ import annotations

import ast
from typing import Any

from graphstreams.errors import CannotJoin
from graphstreams.inductor.lowering import Lowered
from graphstreams.rewriting.wrapper_source import Host, bound_names


def disagreement(serial: Lowered, streamed: Lowered, mutated: tuple[str, ...]) -> str:
    """Return in words what differs between two lowered graphs; empty if a caller can see no difference.

    `mutated` are the inputs that the kernels of the streamed body write, as the reader found them.
    """
    first, second = ([_layout(value) for value in lowered.graph.graph_outputs] for lowered in (serial, streamed))
    if len(first) != len(second):
        return f"it has {len(second)} outputs on streams and {len(first)} in the serial code"
    if first != second:
        place = next(i for i, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
        return f"output {place} has another layout on streams than in the serial code"
    if set(serial.graph.mutated_inputs) != set(mutated):
        return "the streamed body changes other inputs than the serial code"
    known = serial.graph.constants
    for name, value in streamed.graph.constants.items():
        if known.get(name) is not value:
            return f"the streamed body has a constant of its own, {name}"
    return ""


def undeclared_constants(serial: Lowered) -> list[str]:
    """Return lines that declare the constants that Inductor's wrapper uses without a line of their own.

    It writes these lines before code is generated for kernels, and moves a CPU constant to the GPU while it is. What such a
    line assigns does not matter: constants are set when the wrapper is loaded.
    """
    declared = set(bound_names(ast.parse(serial.source)))
    return [f"{name} = None" for name in serial.graph.constants if name not in declared]


def matching_outputs(serial: Lowered, streamed: Lowered, host: Host) -> dict[str, str]:
    """Return, for each buffer that `host` returns, the buffer of the streamed body that holds the same value.

    Raises CannotJoin if there is none, or if it has another layout.
    """
    with serial.active():
        names = serial.graph.get_output_names()
    with streamed.active():
        others = streamed.graph.get_output_names()
    by_name: dict[str, str] = {}
    for name, counterpart in zip(names, others, strict=True):
        if by_name.setdefault(name, counterpart) != counterpart and name in host.outputs:
            raise CannotJoin(f"{name}, of which several outputs are views, is in several buffers on streams")
    found = {}
    for name in host.outputs:
        other = name if name in host.inputs else by_name.get(name)
        if other is None:
            raise CannotJoin(f"{host.name} returns {name}, which is no output of the graph")
        if name not in host.inputs and _layout(serial.graph.get_buffer(name)) != _layout(streamed.graph.get_buffer(other)):
            raise CannotJoin(f"{name} has another layout on streams than in the serial code")
        found[name] = other
    return found


def _layout(value: Any) -> str:
    if value is None or not hasattr(value, "has_tensor_output") or not value.has_tensor_output():
        return type(value).__name__
    layout = value.get_layout()
    return str((layout.device, layout.dtype, list(layout.size), list(layout.stride), layout.offset))
