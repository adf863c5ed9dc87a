"""The ways that a call of a wrapper may go: one, or on streams and serially if the wrapper holds a body for either."""

from __future__ import annotations

import ast
from dataclasses import replace

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.wrapper.names import Module
from graphstreams.verification.wrapper.syntax import literal, shortened

STREAMED = "call_on_streams"
_DISPATCH = "graphstreams.runtime.dispatch.runs_on_streams"


def bodies(module: Module) -> list[Module]:
    """The wrapper once for each way that a call may go, the streamed one first, each with no choice left in it.

    The choice stands at the start of the function that launches the kernels: the call, or the one partition of it.
    Raises `UnreadableWrapper` if there is a streamed body that is not chosen as this package has it.
    """
    streamed = module.functions.get(STREAMED)
    if streamed is None:
        return [module]
    if len(module.partitions) > 1:
        raise UnreadableWrapper(streamed.lineno, f"{STREAMED} beside {len(module.partitions)} partitions")
    name = module.partitions[0] if module.partitions else "call"
    chooser = module.entry() if name == "call" else module.functions[name]
    first = chooser.body[0]
    if not _chooses(first, module):
        raise UnreadableWrapper(first.lineno, f"{shortened(first)}, where {name} chooses whether to call {STREAMED}")
    serial = ast.FunctionDef(**{**dict(ast.iter_fields(chooser)), "body": chooser.body[1:]})
    ways = streamed, ast.copy_location(serial, chooser)
    return [replace(module, functions={**module.functions, name: way}) for way in ways]


def _chooses(statement: ast.stmt, module: Module) -> bool:
    """Whether it is `if _runs_on_streams(args, 256): return call_on_streams(args)`, which only looks at sizes."""
    match statement:
        case ast.If(
            test=ast.Call(func=ast.Name(id=asks), args=[ast.Name(id="args"), *constants], keywords=[]),
            body=[ast.Return(value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id="args")], keywords=[]))],
            orelse=[],
        ):
            known = all(_reads_a_size(c.value) if _is_text(c) else literal(c) for c in constants)  # type: ignore[attr-defined]
            return known and module.path(asks) == _DISPATCH and called == STREAMED
    return False


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _reads_a_size(text: str) -> bool:
    """Whether a text, which the runtime evaluates, only computes with sizes of inputs: `2*inputs[1].shape[0] + inputs[0]`."""
    try:
        tree: ast.expr = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _is_size(tree)


def _is_size(node: ast.expr) -> bool:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), right=right):
            return _is_size(left) and _is_size(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_size(operand)
        case ast.Subscript(value=ast.Attribute(value=ast.Subscript() as whole, attr="shape"), slice=ast.Constant(value=int())):
            return _is_size(whole)
        case ast.Subscript(value=ast.Name(id="inputs"), slice=ast.Constant(value=int())) | ast.Constant(value=int()):
            return True
    return False
