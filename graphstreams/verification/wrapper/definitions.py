"""Read functions and tables as Inductor writes them at the top level of a wrapper."""

from __future__ import annotations

import ast

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import dotted, shortened

HARNESS = {"get_args", "benchmark_compiled_module"}  # functions that no call runs


def read_slices(table: ast.Dict) -> tuple[tuple[slice, ...], ...]:
    """Return which arguments each kernel is given, from `{0: [slice(0, 3, None)], ...}`. Raises UnreadableWrapper."""
    found = []
    for number, (key, value) in enumerate(zip(table.keys, table.values, strict=True)):
        parts = value.elts if isinstance(value, ast.List) else []
        bounds = [part.args for part in parts if isinstance(part, ast.Call) and dotted(part.func) == "slice"]
        numbers = [tuple(a.value if isinstance(a, ast.Constant) else "" for a in arguments) for arguments in bounds]
        whole = [slice(*n) for n in numbers if len(n) == 3 and all(a is None or isinstance(a, int) for a in n)]
        if not isinstance(key, ast.Constant) or key.value != number or not parts or len(whole) != len(parts):
            raise UnreadableWrapper(table.lineno, f"arg_index = {shortened(table)}")
        found.append(tuple(whole))
    return tuple(found)


def check_function(function: ast.FunctionDef) -> None:
    """Raise UnreadableWrapper for parameters other than plain names, and for what Python would run at a definition."""
    arguments = function.args
    names = [argument.arg for argument in arguments.args]
    harness = function.name in HARNESS and all(isinstance(d, ast.Constant) for d in arguments.defaults)
    plain = not (arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg)
    annotated = function.returns is not None or any(argument.annotation is not None for argument in arguments.args)
    if function.decorator_list or annotated or not plain or (not harness and (arguments.defaults or names != ["args"])):
        head = f"{function.name}({shortened(arguments)})"
        raise UnreadableWrapper(function.lineno, f"a function with other parameters than a wrapper's, or decorated: {head}")
