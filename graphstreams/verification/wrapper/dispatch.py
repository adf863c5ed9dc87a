"""The ways that a call of a wrapper may go: one way, or on streams and serially if the wrapper has a body for each."""

from __future__ import annotations

import ast
from dataclasses import replace

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import is_literal, shortened
from graphstreams.verification.wrapper.names import WrapperModule

STREAMED = "call_on_streams"
_DISPATCH = "graphstreams.runtime.dispatch.runs_on_streams"


def bodies(module: WrapperModule) -> list[WrapperModule]:
    """Return the wrapper once for each way that a call may go, without the choice, the streamed one first.

    The choice stands at the start of the function that launches the kernels, which is the call or its only partition.
    Raises UnreadableWrapper for a streamed body that is not chosen as this package writes it.
    """
    streamed = module.functions.get(STREAMED)
    if streamed is None:
        return [module]
    if len(module.partitions) > 1:
        raise UnreadableWrapper(streamed.lineno, f"{STREAMED} beside {len(module.partitions)} partitions")
    name = module.partitions[0] if module.partitions else "call"
    chooser = module.functions[name]
    first = chooser.body[0]
    if not _chooses(first, module):
        raise UnreadableWrapper(first.lineno, f"{shortened(first)}, where {name} chooses whether to call {STREAMED}")
    serial = ast.FunctionDef(**{**dict(ast.iter_fields(chooser)), "body": chooser.body[1:]})
    ways = streamed, ast.copy_location(serial, chooser)
    return [replace(module, functions={**module.functions, name: way}) for way in ways]


def _chooses(statement: ast.stmt, module: WrapperModule) -> bool:
    """Return whether a statement is `if _runs_on_streams(args, 256): return call_on_streams(args)`, which only reads sizes."""
    match statement:
        case ast.If(
            test=ast.Call(func=ast.Name(id=asks), args=[ast.Name(id="args"), *constants], keywords=[]),
            body=[ast.Return(value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id="args")], keywords=[]))],
            orelse=[],
        ) if module.paths.get(asks) == _DISPATCH and called == STREAMED:
            return all(map(_is_constant, constants))
    return False


def _is_constant(node: ast.expr) -> bool:
    """Return whether an argument is a constant. A text, which the runtime evaluates, may only compute with sizes of inputs.

    One is "2*inputs[1].shape[0] + inputs[0]".
    """
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return is_literal(node)
    try:
        return _is_size(ast.parse(node.value, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


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
