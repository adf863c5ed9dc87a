"""Which parameters' memory a Triton kernel reads and writes: an interpretation of its source over addresses.

Every address has to come from a parameter through arithmetic; functions that the source defines are followed with what they
are given. The language is closed: a statement, an expression or a function that is not known here is refused. Statements are
those that Triton compiles (`compiler/code_generator.py`, Triton 3.7 and 3.8), without those that no kernel of Inductor has.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.triton.expressions import Expressions
from graphstreams.verification.triton.functions import Accesses
from graphstreams.verification.triton.source import KernelSource
from graphstreams.verification.triton.values import KernelValue, Kind, Sequence, join

Names = dict[str, KernelValue]


def kernel_accesses(
    source: KernelSource, definition: ast.FunctionDef, parameters: Mapping[str, KernelValue], line: int, generated: bool
) -> Accesses:
    """Return what the kernel `definition` touches if its parameters are `parameters`.

    `generated`: it is one that Inductor writes. Raises UnreadableWrapper, at `line` of the wrapper, for a kernel that makes
    an address of something that is not one, and for a construct whose effect is not known.
    """
    run = _Run(source, definition.name, line, generated)
    try:
        returned = run.follow(definition, dict(parameters))
    except RecursionError:
        raise UnreadableWrapper(line, f"Triton kernel {definition.name} is nested too deeply") from None
    if returned is not Kind.NOTHING:
        raise UnreadableWrapper(line, f"Triton kernel {definition.name} returns a value")
    return run.touched


def constant_value(source: KernelSource, expressions: Iterable[ast.expr], name: str, line: int) -> KernelValue:
    """Return what a constant of the kernel `name` is that may be any of the expressions, of the source's own names."""
    run = _Run(source, name, line, generated=False)
    return functools.reduce(join, (run.value(expression, {}) for expression in expressions))


class _Run(Expressions):
    """One interpretation. What a function does is found once for each list of arguments."""

    def __init__(self, source: KernelSource, name: str, line: int, generated: bool) -> None:
        super().__init__(source, name, line, generated)
        self._results: dict[object, KernelValue] = {}
        self._active: list[ast.FunctionDef] = []
        self._returned: list[KernelValue] = []

    def follow(self, definition: ast.FunctionDef, names: Names) -> KernelValue:
        """Return what a function of the source gives for its parameters, `names`."""
        key = (definition, tuple(sorted(names.items(), key=lambda item: item[0])))
        if key in self._results:
            return self._results[key]
        if definition in self._active:
            raise self.unsupported(definition, "has a function that calls itself", definition.name)
        self._active.append(definition)
        outer, self._returned = self._returned, []
        self._block(definition.body, names)
        returned, self._returned = self._returned, outer
        self._active.pop()
        result = returned[0] if returned else Kind.NOTHING
        for value in returned[1:]:
            result = join(result, value)
        self._results[key] = result
        return result

    def _block(self, statements: list[ast.stmt], names: Names) -> None:
        for statement in statements:
            self._statement(statement, names)

    def _statement(self, statement: ast.stmt, names: Names) -> None:
        self.step(statement)
        match statement:
            case ast.Assign(targets=targets, value=value):
                given = self.value(value, names)
                for target in targets:
                    self._assign(target, given, names)
            case ast.AugAssign(target=ast.Name(id=name) as target, op=op, value=value):
                left = ast.copy_location(ast.Name(name, ast.Load()), target)
                names[name] = self.value(ast.copy_location(ast.BinOp(left, op, value), statement), names)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self.value(value, names), names)
            case ast.Expr(value=value):
                self.value(value, names)
            case ast.Assert(test=test, msg=message):
                self.value(test, names)
                self.value(message or test, names)
            case ast.Return(value=value):
                self._returned.append(Kind.NOTHING if value is None else self.value(value, names))
            case ast.Pass():
                pass
            case _:
                self._compound(statement, names)

    def _compound(self, statement: ast.stmt, names: Names) -> None:
        match statement:
            case ast.If(test=test, body=body, orelse=orelse):
                self.value(test, names)
                other = dict(names)
                self._block(body, names)
                self._block(orelse, other)
                self.merge(names, other)
            case ast.While(test=test, body=body, orelse=[]):
                self._loop(None, test, body, names)
            case ast.For(target=ast.Name() as target, iter=ast.Call() as call, body=body, orelse=[]):
                self.check_range(call, names)
                self._loop(target, call, body, names)
            case _:
                raise self.unsupported(statement, "has a statement that is not known")

    def _loop(self, target: ast.Name | None, head: ast.expr, body: list[ast.stmt], names: Names) -> None:
        """Run the body until it changes nothing: what a name stands for only ever gets less precise."""
        while True:
            before = dict(names)
            given = self.value(head, names)
            after = dict(names)
            if target is not None:
                after[target.id] = given
            self._block(body, after)
            self.merge(names, after)
            if names == before:
                return

    def _assign(self, target: ast.expr, value: KernelValue, names: Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
            return
        if not isinstance(target, ast.Tuple | ast.List) or not all(isinstance(t, ast.Name | ast.Tuple) for t in target.elts):
            raise self.unsupported(target, "assigns to something that is not a name")
        count = len(target.elts)
        if isinstance(value, Sequence) and len(value.items) != count:
            raise self.unsupported(target, f"unpacks {len(value.items)} values into {count}")
        for position, one in enumerate(target.elts):
            # What is not a tuple is a block that is split, or a tuple of numbers.
            self._assign(one, value.items[position] if isinstance(value, Sequence) else value, names)
