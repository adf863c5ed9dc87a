"""Read the text of a wrapper that Inductor generated: the function that launches its kernels, and what its top level holds.

Read in torch 2.15.0: `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from graphstreams.errors import CannotJoin

_WAIT = "async_compile.wait(globals())"
_HARNESS = ("get_args", "benchmark_compiled_module")


@dataclass(frozen=True)
class Host:
    """The function of a serial wrapper that launches its kernels."""

    name: str  # "call", or "partition_0" if Inductor makes CUDA graphs
    inputs: tuple[str, ...]  # names in the order of its list of arguments
    outputs: tuple[str, ...]  # names of what it returns; empty for `call`, which returns the graph's outputs in their order
    aligned: tuple[str, ...]  # inputs that it copies if they are misaligned


def find_host(serial: str) -> Host:
    """Return the function of a serial wrapper that launches its kernels. Raises CannotJoin if several functions do."""
    tree = ast.parse(serial)
    names = [statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)]
    partitions = [name for name in names if re.fullmatch(r"partition_\d+", name)]
    if len(partitions) > 1:
        raise CannotJoin(f"Inductor cuts it into {len(partitions)} CUDA graphs")
    function = function_named(tree, partitions[0] if partitions else "call")
    outputs = _returned_names(function) if partitions else ()
    return Host(function.name, unpacked_inputs(function), outputs, tuple(_aligned(function)))


def function_named(tree: ast.Module, name: str) -> ast.FunctionDef:
    """Return the function of that name at the top level, else the method. Raises CannotJoin if there is neither."""
    methods = [inner for each in tree.body if isinstance(each, ast.ClassDef) for inner in each.body]
    for statement in (*tree.body, *methods):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return statement
    raise CannotJoin(f"its wrapper has no function {name}")


def unpacked_inputs(function: ast.FunctionDef) -> tuple[str, ...]:
    """Return the names to which a function first assigns its arguments. Raises CannotJoin if it begins otherwise."""
    match function.body[0]:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Name(id="args")):
            return tuple(name.id for name in names if isinstance(name, ast.Name))
    raise CannotJoin(f"{function.name} does not begin with its inputs")


def _returned_names(function: ast.FunctionDef) -> tuple[str, ...]:
    match function.body[-1]:
        case ast.Return(value=ast.Tuple(elts=values)) if all(isinstance(value, ast.Name) for value in values):
            return tuple(value.id for value in values)  # type: ignore[attr-defined]
    raise CannotJoin(f"{function.name} does not end in a return of its buffers")


def _aligned(function: ast.FunctionDef) -> Iterator[str]:
    for statement in ast.walk(function):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="copy_if_misaligned"))):
                yield name


def line_of_wait(tree: ast.Module) -> int:
    """Return the line that waits for the kernels to be compiled. Raises CannotJoin unless there is one such line."""
    found = [statement.lineno for statement in tree.body if ast.unparse(statement) == _WAIT]
    if len(found) != 1:
        raise CannotJoin(f"its wrapper has {len(found)} times {_WAIT}")
    return found[0]


def is_frame(statement: ast.stmt) -> bool:
    """Return whether a statement of the top level is in every wrapper, or need not be in one a second time."""
    match statement:
        case ast.FunctionDef(name=name):
            return name == "call" or name in _HARNESS
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
    return False


def kernel_name(statement: ast.stmt) -> str | None:
    """Return the name of the Triton kernel that a statement of the top level defines; None if it defines none."""
    match statement:
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id="async_compile"), attr="triton"),
                args=[ast.Constant(value=str()), ast.Constant(value=str())],
            ),
        ):
            return name
    return None


def unnamed_kernel(statement: ast.stmt, name: str) -> str:
    """Return the definition of a kernel without its name, which holds a number that Inductor counts up.

    Its tiling scores are taken out too. They only guide the choice of block sizes, and Inductor computes them for some
    bodies only.
    """
    source = re.sub(rf"\b{re.escape(name)}\b", "KERNEL", ast.unparse(statement))
    return re.sub(r"'tiling_scores': \{[^}]*\}, ", "", source)


def bound_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that the top level of a wrapper binds."""
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
