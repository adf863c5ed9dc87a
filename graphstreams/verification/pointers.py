"""Which pointers of a Triton kernel are only read: those of which nothing reaches anything but a use known to read.

Addresses are followed through assignments and through what computes with them, in no order of the statements. Names are
resolved through the imports that the kernel's source embeds. Whatever else an address gets to (a store, an atomic, a
function of the user, inline assembly, a construct that is not known here) makes its pointer a written one.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator

from graphstreams.verification.unreadable import UnreadableWrapper

_LANGUAGE = "triton.language."
# What they give is data, not an address.
_READS = {
    "load", "load_tensor_descriptor", "_experimental_descriptor_load", "device_assert", "device_print", "static_assert",
    "static_print", "assume",
}  # fmt: skip
_READING_METHODS = {"load", "gather", "prefetch"}
# What they give is an address where they are given one.
_ADDRESSES = {
    "make_block_ptr", "advance", "make_tensor_descriptor", "_experimental_make_tensor_descriptor", "multiple_of",
    "max_contiguous", "max_constancy", "broadcast", "broadcast_to", "reshape", "view", "ravel", "trans", "permute",
    "expand_dims", "unsqueeze", "squeeze", "cast", "where", "to_tensor", "add", "sub", "minimum", "maximum", "join", "split",
    "range", "static_range", "tuple",
}  # fmt: skip
_ADDRESS_METHODS = {
    "to", "cast", "advance", "broadcast_to", "reshape", "view", "ravel", "trans", "permute", "expand_dims", "split",
}  # fmt: skip
_BUILTINS = {"builtins.range", "builtins.len", "builtins.tuple", "builtins.print", "builtins.min", "builtins.max"}
_READING_HELPERS = {"torch._inductor.runtime.triton_helpers.bucketize_binary_search"}
_DESCRIPTIONS = {"dtype", "type", "shape", "block_shape", "block_type", "element_ty", "numel"}

Origins = frozenset[str]
_NONE: Origins = frozenset()


def written_pointers(tree: ast.Module, definition: ast.FunctionDef, pointers: Collection[str], line: int) -> set[str]:
    """The names among `pointers`, parameters of the kernel `definition` in `tree`, that it may write through.

    Raises `UnreadableWrapper` at `line` where the kernel makes an address of something that is not one.
    """
    uses = _Uses(_paths(tree), definition, pointers, line)
    uses.follow()
    return uses.written


def _paths(tree: ast.Module) -> dict[str, str]:
    """What the names that the source imports stand for; without those that it binds in more than one way."""
    found: dict[str, set[str]] = {}
    for statement in tree.body:
        for name, path in _bound(statement):
            found.setdefault(name, set()).add(path)
    if "*" in found:
        return {}
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def _bound(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.Import):
        for name in statement.names:
            top = name.name.partition(".")[0]
            yield (name.asname, name.name) if name.asname else (top, top)
    elif isinstance(statement, ast.ImportFrom):
        for name in statement.names:
            yield name.asname or name.name, f"{statement.module}.{name.name}"
    elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name, ""
    else:
        yield from ((name, "") for name in _stored(statement))


def _stored(node: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


class _Uses:
    """What is derived from each pointer, and which pointers something may write through."""

    def __init__(self, paths: dict[str, str], definition: ast.FunctionDef, pointers: Collection[str], line: int) -> None:
        self.written: set[str] = set()
        self._paths, self._definition, self._line = paths, definition, line
        self._locals = {a.arg for a in ast.walk(definition.args) if isinstance(a, ast.arg)} | set(_stored(definition))
        self._origins: dict[str, Origins] = {name: frozenset({name}) for name in pointers}
        self._changed = True

    def follow(self) -> None:
        """Until nothing new is derived: two rounds, but for loops that carry addresses from one name to another."""
        while self._changed:
            self._changed = False
            self._block(self._definition.body)

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AugAssign(target=target, value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value)
            case ast.For(target=target, iter=value, body=body, orelse=orelse):
                self._assign(target, value)
                self._block([*body, *orelse])
            case ast.While(test=test, body=body, orelse=orelse) | ast.If(test=test, body=body, orelse=orelse):
                self._value(test)
                self._block([*body, *orelse])
            case ast.Expr(value=value) | ast.Assert(test=value, msg=None):
                self._value(value)
            case ast.Pass() | ast.Return(value=None) | ast.Break() | ast.Continue():
                pass
            case _:
                self._write_all(statement)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for one, source in pairs:
            origins = self._value(source)
            names = one.elts if isinstance(one, ast.Tuple) else [one]
            for name in names:
                if isinstance(name, ast.Name):
                    self._bind(name.id, origins)
                else:
                    self._write(origins | self._value(name))

    def _bind(self, name: str, origins: Origins) -> None:
        before = self._origins.get(name, _NONE)
        if not origins <= before:
            self._origins[name] = before | origins
            self._changed = True

    def _write(self, origins: Origins) -> None:
        self.written |= origins

    def _write_all(self, node: ast.AST) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                self._write(self._origins.get(part.id, _NONE))

    # --- expressions

    def _value(self, node: ast.expr) -> Origins:
        """The pointers that the value of an expression may be an address of."""
        if isinstance(node, ast.Name):
            return self._origins.get(node.id, _NONE)
        if isinstance(node, ast.Call):
            return self._call(node)
        operands = _operands(node)
        if operands is None:
            self._write_all(node)
            return _NONE
        origins = self._union(operands)
        if isinstance(node, ast.NamedExpr):
            self._bind(node.target.id, origins)
        describes = isinstance(node, ast.Compare) or (isinstance(node, ast.Attribute) and node.attr in _DESCRIPTIONS)
        return _NONE if describes else origins

    def _union(self, nodes: list[ast.expr]) -> Origins:
        return _NONE.union(*[self._value(node) for node in nodes])

    def _call(self, call: ast.Call) -> Origins:
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        given = self._union(arguments)
        path = self._path(call.func)
        if path is None and isinstance(call.func, ast.Attribute):
            given |= self._value(call.func.value)
            reads, passes = call.func.attr in _READING_METHODS, call.func.attr in _ADDRESS_METHODS
        else:
            name = (path or "").removeprefix(_LANGUAGE) if (path or "").startswith(_LANGUAGE) else ""
            reads, passes = name in _READS or path in _READING_HELPERS, name in _ADDRESSES or path in _BUILTINS
            given |= self._value(call.func) if path is None else _NONE
        if not given and any(self._path(part) == f"{_LANGUAGE}pointer_type" for a in arguments for part in ast.walk(a)):
            raise UnreadableWrapper(self._line, f"Triton kernel {self._definition.name} makes a pointer of a number")
        if passes:
            return given
        if not reads:
            self._write(given)
        return _NONE

    def _path(self, node: ast.AST) -> str | None:
        """The full name of what is imported or built in; None for what a value of the kernel gives."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self._locals:
            return None
        default = f"builtins.{node.id}" if hasattr(builtins, node.id) else ""
        path = ".".join([self._paths.get(node.id, default), *reversed(parts)])
        return path.replace("triton.language.core.", _LANGUAGE)


def _operands(node: ast.expr) -> list[ast.expr] | None:
    """What a value is computed from; None for an expression that is not known."""
    match node:
        case ast.Constant():
            return []
        case ast.Attribute(value=value) | ast.UnaryOp(operand=value) | ast.Starred(value=value) | ast.NamedExpr(value=value):
            return [value]
        case ast.BinOp(left=one, right=other) | ast.Subscript(value=one, slice=other):
            return [one, other]
        case ast.Compare(left=left, comparators=others):
            return [left, *others]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return [test, body, orelse]
        case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
            return values
        case ast.Slice(lower=lower, upper=upper, step=step):
            return [bound for bound in (lower, upper, step) if bound is not None]
    return None
