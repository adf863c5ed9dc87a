"""Rewrite the source of a generated kernel to a form that does not depend on the names of the kernel and its pointers.

A kernel that writes over its input has one pointer where another has two. So a pointer is named after its use, numbered in the
order of the body. Alignment and sizes stay, because they decide how a kernel is compiled. The parts of a foreach kernel may
share one body, for which each part gives its own pointers to variables; what stays of these is of which kind they are. Read in
torch 2.15.0: `_inductor/codegen/triton.py` (codegen_kernel), `_inductor/codegen/triton_utils.py` (config_of),
`_inductor/codegen/triton_combo_kernel.py` (SharedBody).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import Any

_POINTER = re.compile(r"(in_out|in|out)_ptr\d+")
_SHARED = re.compile(r"foreach_arg\d+")  # variables that hold the pointers of one part of a foreach kernel
_NAMES = {"kernel_name", "mutated_arg_names", "backend_hash"}  # in a kernel's metadata
_BY_PARAMETER = {"signature", "configs"}


def canonical_source(name: str, source: str) -> str:
    """Return the text that two kernels share if and only if they differ in names alone.

    `name` is the kernel's name in `source`. A source that is not Python comes back with the kernel's name replaced only.
    """
    return _without_names(source.replace(name, "kernel"))


@functools.lru_cache(maxsize=1024)  # the serial and the streamed code have nearly all kernels in common, under other names
def _without_names(text: str) -> str:
    """Return `canonical_source` of a text in which the kernel is called `kernel`."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    kernel = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "kernel"), None)
    if kernel is None:
        return ast.unparse(tree)
    pointers = _Pointers()
    kernel.body = [pointers.visit(statement) for statement in kernel.body]
    parameters = [argument.arg for argument in kernel.args.args]
    kernel.args.args = [argument for argument in kernel.args.args if not _POINTER.fullmatch(argument.arg)]
    kinds = _kinds(_take_metadata(kernel), parameters)
    _Parts(pointers.found, kinds).visit(kernel)
    return "\n".join([ast.unparse(tree), *_describe_parameters(kinds, pointers.found)])


def kernels_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the kernels that a wrapper defines, each with its source without names."""
    for statement in tree.body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
            continue
        call, target = statement.value, statement.targets[0]
        if isinstance(target, ast.Name) and ast.unparse(call.func).startswith("async_compile."):
            texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            name = texts[0] if len(texts) > 1 else target.id
            yield target.id, canonical_source(name, texts[-1]) if texts else ast.unparse(call)


class _Pointers(ast.NodeTransformer):
    """A pass that renames pointers after their use: read0, write0 and so on."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}  # use and name in the source -> new name
        self._use = "use"

    def visit_Call(self, node: ast.Call) -> ast.AST:
        outer, called = self._use, node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called == "load":
            self._use = "read"
        elif called == "store" or called.startswith("atomic_"):
            self._use = "write"
        if node.args and self._use != outer:
            node.args[0] = self.visit(node.args[0])
            self._use = outer
            node.args[1:] = [self.visit(argument) for argument in node.args[1:]]
            node.keywords = [self.visit(keyword) for keyword in node.keywords]
            return node
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return node if _gives_pointer(node) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not _POINTER.fullmatch(node.id) and not _SHARED.fullmatch(node.id):
            return node
        count = sum(use == self._use for use, _ in self.found)
        new = self.found.setdefault((self._use, node.id), f"{self._use}{count}")
        return ast.copy_location(ast.Name(new, node.ctx), node)


def _take_metadata(kernel: ast.FunctionDef) -> dict[str, Any]:
    """Remove from a kernel's decorators what names kernels or parameters, and return what they tell of parameters."""
    taken: dict[str, Any] = {}
    calls = [decorator for decorator in kernel.decorator_list if isinstance(decorator, ast.Call)]
    for entries in (keyword.value for call in calls for keyword in call.keywords):
        if isinstance(entries, ast.Dict):
            items = [(getattr(key, "value", None), key, value) for key, value in zip(entries.keys, entries.values, strict=True)]
            taken |= {name: ast.literal_eval(value) for name, _, value in items if name in _BY_PARAMETER}
            kept = [(key, value) for name, key, value in items if name not in _NAMES | _BY_PARAMETER]
            entries.keys, entries.values = [key for key, _ in kept], [value for _, value in kept]
    return taken


def _kinds(known: dict[str, Any], parameters: list[str]) -> dict[str, str]:
    """Return the kind of each parameter: its type, and what its value is known to be divisible by."""
    types = known.get("signature", {})
    hints = {position: hint for config in known.get("configs", ()) for key, hint in config.items() for position in key}
    return {parameter: f"{types.get(parameter)} {hints.get(position)}" for position, parameter in enumerate(parameters)}


def _describe_parameters(kinds: dict[str, str], pointers: dict[tuple[str, str], str]) -> list[str]:
    """Return one line for each parameter, with its kind."""
    lines: list[str] = []
    for parameter, kind in kinds.items():
        renamed = [new for (_, old), new in pointers.items() if old == parameter]
        lines.extend(f"{name}: {kind}" for name in (renamed if _POINTER.fullmatch(parameter) else [parameter]))
    return sorted(lines)


def _gives_pointer(node: ast.stmt) -> bool:
    """Return whether a statement gives a pointer to a variable of a body that the parts of a foreach kernel share."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=pointer)):
            return bool(_SHARED.fullmatch(name) and _POINTER.fullmatch(pointer))
    return False


class _Parts(ast.NodeTransformer):
    """A pass that replaces, in each part of a foreach kernel, the pointers that it gives by their kinds."""

    def __init__(self, pointers: dict[tuple[str, str], str], kinds: dict[str, str]) -> None:
        self._pointers, self._kinds = pointers, kinds

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        node.body, node.orelse = self._described(node.body), self._described(node.orelse)
        return node

    def _described(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        given = [(s.targets[0].id, s.value.id) for s in statements if _gives_pointer(s)]  # type: ignore[attr-defined]
        uses = [
            (new, self._kinds.get(pointer))
            for held, pointer in given
            for (_, old), new in self._pointers.items()
            if old == held
        ]
        others = [statement for statement in statements if not _gives_pointer(statement)]
        return [*others, *(ast.Expr(ast.Constant(f"{name}: {kind}")) for name, kind in sorted(uses))]
