"""Walks the statements of a wrapper's functions in the order in which Python runs them, without running them.

Wrappers are straight-line code: no loops, and no branch but one that raises. Whatever else occurs is refused.
"""

from __future__ import annotations

import ast
import re

from graphstreams.verification.call import GUARD
from graphstreams.verification.expressions import Expressions
from graphstreams.verification.machine import Machine
from graphstreams.verification.module import Module, shortened
from graphstreams.verification.trace import CALLER
from graphstreams.verification.values import (
    Bundle,
    Constant,
    Path,
    Size,
    Storage,
    Stream,
    Tensor,
    Value,
    storages_of,
)

_SYMBOL = re.compile(r"(s|u|zuf|zf|z|ps|ks)\d+$")  # names that Inductor gives to sizes
_MAX_DEPTH = 50
_JOIN = Path("graphstreams.runtime.streams.join")
_ANY_ERROR = Path("builtins.BaseException")


class _Return(Exception):
    """Carries the value of a `return` out of nested blocks."""

    def __init__(self, value: Value) -> None:
        self.value = value


class Reader(Expressions):
    """Reads functions of one module into a machine."""

    def __init__(self, module: Module, machine: Machine) -> None:
        super().__init__(module, machine)
        self._depth = 0
        self._inputs: Bundle | None = None

    def read(self) -> None:
        """Read the call, from its inputs to its outputs."""
        function = self._module.entry()
        self._machine.line = function.lineno
        # The caller's list holds the inputs until the wrapper clears it.
        inputs = self._machine.heap.bundle([])
        arguments: list[Value] = [Path("self"), inputs]
        result = self._run(function, arguments[-len(function.args.args) :], inputs)
        self._machine.outputs.extend(storages_of(result))
        self._machine.heap.hold(result)

    # --- functions

    def _run(self, function: ast.FunctionDef, arguments: list[Value], inputs: Bundle | None = None) -> Value:
        parameters = [argument.arg for argument in function.args.args]
        if len(parameters) != len(arguments) or self._depth > _MAX_DEPTH:
            raise self._machine.refuse(f"a call of {function.name} with these arguments")
        heap, line = self._machine.heap, self._machine.line
        outer_names, self._names = self._names, {}
        outer_fresh = heap.nest([])
        self._depth += 1
        self._inputs = inputs
        for name, value in zip(parameters, arguments, strict=True):
            self._bind(name, value)
        result = self._result(function)
        for value in self._names.values():
            heap.drop(value)
        heap.collect()
        self._depth -= 1
        heap.nest(outer_fresh)
        heap.lend(result)
        self._names, self._machine.line = outer_names, line
        return result

    def _result(self, function: ast.FunctionDef) -> Value:
        """The function's result, held once, so that it outlives the function's names."""
        try:
            self._block(function.body)
        except _Return as returned:
            return returned.value
        raise self._machine.refuse(f"{function.name} ends without a return; the source may be cut off")

    # --- statements

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._machine.line = statement.lineno
            self._statement(statement)
            self._machine.heap.collect()

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                self._assign(targets, value)
            case ast.Delete(targets=targets):
                self._delete(targets)
            case ast.Expr(value=value):
                self._value(value)
            case ast.With(items=[item], body=body) if item.optional_vars is None:
                self._with(item.context_expr, body)
            case ast.Try(body=body, handlers=[handler], orelse=[], finalbody=[]):
                self._check_handler(handler)
                self._block(body)
                self._check_handler(handler)  # what it names may have come to stand for something else
            case ast.Return(value=value):
                result = self._value(value) if value is not None else Constant()
                self._machine.heap.hold(result)
                raise _Return(result)
            case ast.If(test=test, body=[ast.Raise()], orelse=[]) | ast.Assert(test=test):
                self._constant(test)
            case ast.Pass():
                pass
            case _:
                raise self._machine.refuse(shortened(statement))

    def _assign(self, targets: list[ast.expr], source: ast.expr) -> None:
        for target in targets:
            if isinstance(target, ast.Name):
                self._assign_name(target.id, source)
            elif isinstance(target, ast.Tuple | ast.List):
                self._unpack([self._target_name(element) for element in target.elts], self._value(source))
            else:
                raise self._machine.refuse(f"an assignment to {shortened(target)}")
        if len(targets) != 1:
            raise self._machine.refuse("an assignment with several targets")

    def _assign_name(self, name: str, source: ast.expr) -> None:
        value = self._value(source)
        if _SYMBOL.match(name) and isinstance(source, ast.Name) and isinstance(value, Tensor):
            self._forget_input(source.id, value)
            value = Constant()
        elif isinstance(source, ast.Name):
            self._add_name(value, name)
        self._bind(name, value)

    def _target_name(self, target: ast.expr) -> str:
        if isinstance(target, ast.Name):
            return target.id
        raise self._machine.refuse(f"an assignment to {shortened(target)}")

    def _unpack(self, names: list[str], value: Value) -> None:
        if value is self._inputs and isinstance(value, Bundle) and not value.items:
            self._take_inputs(names, value)
        if not isinstance(value, Bundle) or len(value.items) != len(names):
            raise self._machine.refuse(f"{len(names)} names for what is not a tuple of that length")
        for name, item in zip(names, value.items, strict=True):
            self._bind(name, item)

    def _take_inputs(self, names: list[str], bundle: Bundle) -> None:
        """The first unpacking of the caller's list tells how many inputs there are."""
        for name in names:
            if _SYMBOL.match(name):
                bundle.items.append(Size(name=name))
                continue
            storage = self._machine.heap.storage(name)
            self._machine.inputs.append(storage)
            bundle.items.append(Tensor((storage,)))
            self._machine.heap.hold(bundle.items[-1])

    def _forget_input(self, name: str, value: Tensor) -> None:
        """An input that turns out to be a size."""
        inputs = self._machine.inputs
        if not all(storage in inputs for storage in value.storages):
            raise self._machine.refuse(f"{name}, a tensor, used as a size")
        for storage in value.storages:
            inputs.remove(storage)
            storage.count = -1
        self._names[name] = Constant()

    def _add_name(self, value: Value, name: str) -> None:
        """A storage that moves to another name is called by both."""
        if isinstance(value, Tensor) and len(value.storages) == 1:
            names = value.storages[0].names
            if names and name not in names:
                names.append(name)

    def _bind(self, name: str, value: Value) -> None:
        for position, storage in enumerate(_unnamed(value)):
            storage.names.append(name if isinstance(value, Tensor) else f"{name}[{position}]")
        self._machine.heap.hold(value)
        before = self._names.get(name)
        self._names[name] = value
        if before is not None:
            self._machine.heap.drop(before)

    def _delete(self, targets: list[ast.expr]) -> None:
        for target in targets:
            name = target.id if isinstance(target, ast.Name) else ""
            if name not in self._names:
                raise self._machine.refuse(f"del {shortened(target)}, which is not a name of this function")
            self._machine.heap.drop(self._names.pop(name))

    def _with(self, expression: ast.expr, body: list[ast.stmt]) -> None:
        context = self._value(expression)
        if isinstance(context, Stream):
            # `AuxStream` leads back to the caller's stream. Inductor's own wrapper class nests no contexts either.
            if self._machine.stream != CALLER:
                raise self._machine.refuse(f"with {shortened(expression)}, inside the context of another stream")
            self._machine.push_stream(context.number)
            try:
                self._block(body)
            finally:
                self._machine.pop_stream()
        elif context is GUARD:
            self._block(body)
        else:
            raise self._machine.refuse(f"with {shortened(expression)}")

    def _check_handler(self, handler: ast.ExceptHandler) -> None:
        """What is joined where the body raises is no part of the trace, in which nothing raises. It has to raise again."""
        match handler:
            case ast.ExceptHandler(
                type=ast.expr() as kind, name=None, body=[ast.Expr(value=ast.Call(keywords=[]) as call), ast.Raise(exc=None)]
            ) if self._value(kind) == _ANY_ERROR and self._value(call.func) == _JOIN:
                joined = [self._value(argument) for argument in call.args]
                if joined == [Stream(number) for number in range(1 + (self._machine.acquired or 0))]:
                    return
        raise self._machine.refuse(
            f"{shortened(handler)}, which does not join all aux streams with the caller's and raise again"
        )


def _unnamed(value: Value) -> list[Storage]:
    return [storage for storage in storages_of(value) if not storage.names]
