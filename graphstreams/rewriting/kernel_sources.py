"""The source of a generated kernel, without what has no influence on the numbers: its name, and the names of its pointers.

A kernel that writes over its input has one pointer where another has two, so a pointer is named by what is done with it, in
the order in which the body uses it. Alignment and sizes stay: how a kernel is compiled depends on them. Read in torch 2.15.0:
`_inductor/codegen/triton.py` (codegen_kernel), `_inductor/codegen/triton_utils.py` (config_of).
"""

from __future__ import annotations

import ast
import re
from typing import Any

_POINTER = re.compile(r"(in_out|in|out)_ptr\d+")
_NAMES = {"kernel_name", "mutated_arg_names", "backend_hash"}  # in a kernel's metadata
_BY_PARAMETER = {"signature", "configs"}


def canonical_source(name: str, source: str) -> str:
    """Return the text that two kernels share if, and only if, they are the same but for names.

    `name` is the kernel's name in `source`. A source that is no Python is compared as it is.
    """
    text = source.replace(name, "kernel")
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
    described = _describe_parameters(kernel, parameters, pointers.found)
    kernel.args.args = [argument for argument in kernel.args.args if not _POINTER.fullmatch(argument.arg)]
    for entries in _dictionaries(kernel):
        _drop(entries, _NAMES | _BY_PARAMETER)
    return "\n".join([ast.unparse(tree), *described])


class _Pointers(ast.NodeTransformer):
    """Renames pointers by use: read0, write0 and so on."""

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

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not _POINTER.fullmatch(node.id):
            return node
        count = sum(use == self._use for use, _ in self.found)
        new = self.found.setdefault((self._use, node.id), f"{self._use}{count}")
        return ast.copy_location(ast.Name(new, node.ctx), node)


def _describe_parameters(kernel: ast.FunctionDef, parameters: list[str], pointers: dict[tuple[str, str], str]) -> list[str]:
    """One line for each parameter: its type, and what its values are known to divide by."""
    known: dict[str, Any] = {}
    for entries in _dictionaries(kernel):
        known.update({key: value for key, value in _literals(entries).items() if key in _BY_PARAMETER})
    types = known.get("signature", {})
    hints = {position: hint for config in known.get("configs", ()) for key, hint in config.items() for position in key}
    lines: list[str] = []
    for position, parameter in enumerate(parameters):
        names = [new for (_, old), new in pointers.items() if old == parameter]
        if not names and not _POINTER.fullmatch(parameter):
            names = [parameter]
        lines.extend(f"{name}: {types.get(parameter)} {hints.get(position)}" for name in names)
    return sorted(lines)


def _dictionaries(kernel: ast.FunctionDef) -> list[ast.Dict]:
    calls = [decorator for decorator in kernel.decorator_list if isinstance(decorator, ast.Call)]
    return [keyword.value for call in calls for keyword in call.keywords if isinstance(keyword.value, ast.Dict)]


def _literals(entries: ast.Dict) -> dict[str, Any]:
    found = {}
    for key, value in zip(entries.keys, entries.values, strict=True):
        if isinstance(key, ast.Constant) and key.value in _BY_PARAMETER:
            found[str(key.value)] = ast.literal_eval(value)
    return found


def _drop(entries: ast.Dict, names: set[str]) -> None:
    kept = [
        (key, value)
        for key, value in zip(entries.keys, entries.values, strict=True)
        if not (isinstance(key, ast.Constant) and key.value in names)
    ]
    entries.keys, entries.values = [key for key, _ in kept], [value for _, value in kept]
