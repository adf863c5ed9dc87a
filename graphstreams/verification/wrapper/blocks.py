"""Statements that hold others: the contexts of devices and streams, and what is joined where a call raises."""

from __future__ import annotations

import ast

from graphstreams.verification.trace import CALLER
from graphstreams.verification.wrapper.abstract_values import CONTEXT, Stream, Value
from graphstreams.verification.wrapper.checks import Checks
from graphstreams.verification.wrapper.syntax import shortened

_JOIN = "graphstreams.runtime.streams.join"


class Blocks(Checks):
    """Reads blocks over the names of the function that is being read."""

    _profiler = False  # whether the function has imported `record_function`

    def _block(self, statements: list[ast.stmt]) -> None:
        """Read statements in their order."""
        raise NotImplementedError

    def _with(self, expression: ast.expr, body: list[ast.stmt]) -> None:
        match expression:
            case ast.Call(func=ast.Name(id="record_function"), args=[ast.Constant(value=str())], keywords=[]) if self._profiler:
                context: Value = CONTEXT
            case _:
                context = self._value(expression)
        if isinstance(context, Stream):
            # `AuxStream` leads back to the caller's stream. Inductor's own wrapper class nests no contexts either.
            if self._machine.stream != CALLER:
                raise self._machine.unsupported(f"with {shortened(expression)}, inside the context of another stream")
            self._machine.stream = context.number
            self._block(body)
            self._machine.stream = CALLER
        elif context is CONTEXT:
            self._block(body)
        else:
            raise self._machine.unsupported(f"with {shortened(expression)}")

    def _try(self, body: list[ast.stmt], handler: ast.ExceptHandler) -> None:
        self._check_handler(handler)
        self._block(body)
        self._check_handler(handler)  # which names the streams that the body may have acquired

    def _check_handler(self, handler: ast.ExceptHandler) -> None:
        """What is joined where the body raises is no part of the trace, in which nothing raises. It has to raise again."""
        match handler:
            case ast.ExceptHandler(
                type=ast.Name() as kind,
                name=None,
                body=[ast.Expr(value=ast.Call(func=join, keywords=[], args=arguments)), ast.Raise(exc=None, cause=None)],
            ) if self._path(kind) == "builtins.BaseException" and self._path(join) == _JOIN:
                joined = [self._names.get(a.id) if isinstance(a, ast.Name) else None for a in arguments]
                if joined == [Stream(number) for number in range(1 + (self._machine.acquired or 0))]:
                    return
        raise self._machine.unsupported(
            f"{shortened(handler)}, which does not join all aux streams with the caller's and raise again"
        )
