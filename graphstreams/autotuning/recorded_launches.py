"""Turns the launches of a serial wrapper into functions that can be called again, in any order and on any stream.

The source of the wrapper is changed in three ways before it runs once: every launch goes through a recorder, nothing is
freed, and a launch asks for the current stream when it is called. So what a launch reads and writes stays where it is for as
long as the launches are held. Read in torch 2.15.0: `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from graphstreams.autotuning.left_out import zeros_for

RecordedLaunch = Callable[[], Any]
Item = TypeVar("Item")

_RECORD, _ZEROS = "_graphstreams_record", "_graphstreams_zeros"


def record_launches(
    source: str, lines: Sequence[int], constants: Mapping[str, Any], arguments: Sequence[Any], left_out: Collection[int] = ()
) -> list[RecordedLaunch]:
    """Run the wrapper `source` once and return the launches on its `lines`, in that order.

    `constants` are the tensors that Inductor puts into the module, `arguments` those of its `call`. Inputs that the graph
    mutates are mutated now, and again by each call of a launch that does so. On lines that are `left_out` nothing is launched,
    now or later, and what an operator there gives is full of zeros. Raises ValueError if a line holds no launch.
    """
    launches: list[RecordedLaunch] = []

    def record(launch: RecordedLaunch) -> Any:
        launches.append(launch)
        return launch()

    tree = ast.parse(source)
    found = _Recorder(set(lines), left_out)
    for statement in ast.walk(tree):
        if isinstance(statement, ast.FunctionDef) and statement.name == "call":
            found.function(statement)
    if missing := sorted(set(lines) - found.seen):
        raise ValueError(f"line {missing[0]} of the wrapper holds no launch that can be repeated")
    module = ModuleType("graphstreams_serial_wrapper")
    exec(compile(ast.fix_missing_locations(tree), "<serial wrapper>", "exec"), module.__dict__)
    vars(module).update(constants)
    vars(module).update({_RECORD: record, _ZEROS: zeros_for})
    module.call(list(arguments))
    # The launches refer to the module. If it referred to them, their buffers would stay until the next garbage collection.
    del vars(module)[_RECORD], vars(module)[_ZEROS]
    if len(launches) != len(lines):
        raise ValueError(f"the wrapper made {len(launches)} launches, {len(lines)} were expected")
    return launches


def by_kernel(of_launches: Sequence[Item], kernel_of_launch: Sequence[int], kernels: int) -> list[list[Item]]:
    """Return the items of launches in lists by kernel id. Raises ValueError if launches and items are not equally many."""
    found: list[list[Item]] = [[] for _ in range(kernels)]
    for kernel, item in zip(kernel_of_launch, of_launches, strict=True):
        found[kernel].append(item)
    return found


class _Recorder(ast.NodeTransformer):
    """A pass that rewrites the body of a wrapper's `call`."""

    def __init__(self, lines: set[int], left_out: Collection[int]) -> None:
        self._lines, self._left_out = lines, left_out
        self.seen: set[int] = set()
        self._raw_streams: dict[str, ast.expr] = {}
        self._locals: set[str] = set()

    def function(self, function: ast.FunctionDef) -> None:
        stored = (n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        self._locals.update(stored)
        function.body = [self.visit(statement) for statement in function.body]

    def visit_Delete(self, node: ast.Delete) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="get_raw_stream"))):
                self._raw_streams[name] = node.value
        return self.visit_Expr(node)

    def visit_Expr(self, node: ast.Expr | ast.Assign) -> ast.stmt:
        if node.lineno in self._lines and isinstance(node.value, ast.Call):
            self.seen.add(node.lineno)
            launch = self._bound(node.value)
            if node.lineno in self._left_out:
                launch = ast.Lambda(ast.arguments([], [], None, [], [], None, []), ast.Constant(None))
            recorded: ast.expr = ast.Call(ast.Name(_RECORD, ast.Load()), [launch], [])
            if node.lineno in self._left_out and isinstance(node, ast.Assign):
                call = ast.Call(ast.Name(_ZEROS, ast.Load()), [node.value.func, *node.value.args], node.value.keywords)
                recorded = ast.BoolOp(ast.Or(), [recorded, call])  # a launch that is left out gives nothing
            node.value = recorded
        return node

    def _bound(self, call: ast.Call) -> ast.Lambda:
        """Return `call` as a function that holds the values which its names have now, but asks for the stream when called."""
        body = Substitute(self._raw_streams).visit(call)
        names = sorted({n.id for n in ast.walk(body) if isinstance(n, ast.Name)} & self._locals)
        arguments = ast.arguments([], [ast.arg(n) for n in names], None, [], [], None, [ast.Name(n, ast.Load()) for n in names])
        return ast.Lambda(arguments, body)


class Substitute(ast.NodeTransformer):
    """A pass that replaces names by expressions."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._values.get(node.id, node)
