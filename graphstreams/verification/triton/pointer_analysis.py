"""Find which parameters' memory a Triton kernel reads and writes, by interpreting its source over addresses.

Every address has to come from a parameter through arithmetic. Functions that the source defines are followed with what they are
given. The language is closed: an unknown statement, expression or function is refused. This module knows the statements, which
are those that Triton compiles and kernels of Inductor have. Read in Triton 3.7 and 3.8: `compiler/code_generator.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.triton.expressions import KernelExpressions, Names
from graphstreams.verification.triton.functions import ParameterAccesses
from graphstreams.verification.triton.source import KernelSource
from graphstreams.verification.triton.values import KernelValue, Kind, Sequence, join


def kernel_accesses(
    source: KernelSource, definition: ast.FunctionDef, parameters: Mapping[str, KernelValue], line: int, generated: bool
) -> ParameterAccesses:
    """Return what the kernel `definition` touches if its parameters are `parameters`.

    `generated` says that Inductor wrote it. Raises UnreadableWrapper, at `line` of the wrapper, for a kernel that makes an
    address of something else, and for a construct whose effect is not known.
    """
    run = _KernelRun(source, definition.name, line, generated)
    try:
        returned = run.follow(definition, dict(parameters))
    except RecursionError:
        raise UnreadableWrapper(line, f"Triton kernel {definition.name} is nested too deeply") from None
    if returned is not Kind.NOTHING:
        raise UnreadableWrapper(line, f"Triton kernel {definition.name} returns a value")
    return run.touched


def constant_value(source: KernelSource, expressions: Iterable[ast.expr], name: str, line: int) -> KernelValue:
    """Return what a constant of the kernel `name` is, if it may be any of the expressions, which use the source's names."""
    run = _KernelRun(source, name, line, generated=False)
    return join(*(run.value(expression, {}) for expression in expressions))


class _KernelRun(KernelExpressions):
    """One interpretation of a kernel, which finds what a function does once for each list of arguments."""

    def __init__(self, source: KernelSource, name: str, line: int, generated: bool) -> None:
        super().__init__(source, name, line, generated)
        self._results: dict[object, KernelValue] = {}
        self._active: list[ast.FunctionDef] = []
        self._returned: list[KernelValue] = []

    def follow(self, definition: ast.FunctionDef, names: Names) -> KernelValue:
        """Return what a function of the source gives if its parameters are `names`."""
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
        self._results[key] = join(Kind.NOTHING, *returned)
        return self._results[key]

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
                names[name] = self._binary(statement, self.value(target, names), op, self.value(value, names))
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
        """Run the body until it changes nothing, which ends because what a name stands for only gets less precise."""
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
        # Anything but a tuple is a block that is split, or a tuple of numbers.
        items = value.items if isinstance(value, Sequence) else (value,) * len(target.elts)
        if len(items) != len(target.elts):
            raise self.unsupported(target, f"unpacks {len(items)} values into {len(target.elts)}")
        for one, item in zip(target.elts, items, strict=True):
            self._assign(one, item, names)
