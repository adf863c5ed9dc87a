"""The ways that a call of a wrapper may go: one, or on streams and serially if the wrapper holds a body for either."""

from __future__ import annotations

import ast

from graphstreams.verification.names import Module
from graphstreams.verification.source import literal, shortened
from graphstreams.verification.unreadable import UnreadableWrapper

STREAMED = "call_on_streams"
_DISPATCH = "graphstreams.runtime.dispatch.runs_on_streams"


def bodies(module: Module) -> list[ast.FunctionDef]:
    """The functions that a call runs, the streamed one first.

    Raises `UnreadableWrapper` if there is a streamed body that the call does not choose as this package has it.
    """
    entry = module.entry()
    streamed = module.functions.get(STREAMED)
    if streamed is None:
        return [entry]
    first = entry.body[0]
    if not _chooses(first, module):
        raise UnreadableWrapper(first.lineno, f"{shortened(first)}, where {entry.name} chooses whether to call {STREAMED}")
    serial = ast.FunctionDef(**{**dict(ast.iter_fields(entry)), "body": entry.body[1:]})
    return [streamed, ast.copy_location(serial, entry)]


def _chooses(statement: ast.stmt, module: Module) -> bool:
    """Whether it is `if _runs_on_streams(args, 256): return call_on_streams(args)`, which only looks at sizes."""
    match statement:
        case ast.If(
            test=ast.Call(func=ast.Name(id=asks), args=[ast.Name(id="args"), *constants], keywords=[]),
            body=[ast.Return(value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id="args")], keywords=[]))],
            orelse=[],
        ):
            return all(literal(constant) for constant in constants) and module.path(asks) == _DISPATCH and called == STREAMED
    return False
