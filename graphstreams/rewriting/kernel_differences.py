"""List the launches of streamed code that the serial code does not have: only there may bits differ.

Two launches are the same if kernel, sizes, layouts and settings are. Whether they use the right buffers is for the verifier.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphstreams.rewriting.kernel_sources import kernels_of
from graphstreams.rewriting.two_bodies import STREAMED

CALLER = "the caller's stream"
_INPUT = re.compile(r"(arg|primals_|tangents_)\d+(_\d+)?")
_TENSOR = re.compile(r"(buf|arg|constant|primals|_tensor_constant|tangents)\w*\d\w*")
_LAUNCHING = re.compile(r"call|partition_.*")  # functions that launch kernels: `call`, and its parts that are captured alone
_OPERATORS = ("extern_kernels.", "torch.ops.", "aten.", "inductor_ops.", "_quantized.")


@dataclass(frozen=True)
class _Launch:
    """One launch in a wrapper."""

    key: str  # all that decides the bits of its results, but for its inputs
    name: str
    line: int
    stream: str
    buffers: frozenset[str]


def kernel_differences(serial: str, streamed: str) -> tuple[str, ...]:
    """Return a sentence for each launch of one wrapper that the other does not have.

    An empty tuple means that both launch the same kernels, in whatever order, so that the bits are the same.
    Raises SyntaxError if a source is not Python.
    """
    before, after = _launches(serial), _launches(streamed)
    only_after = _without(after, before)
    sentences = [
        f"{launch.name} (line {launch.line}, {launch.stream}) is not a launch of the serial code"
        f"{_crossing(launch, after)}; its bits may differ"
        for launch in only_after
    ]
    gone = [f"{launch.name} is launched by the serial code and not on streams" for launch in _without(before, after)]
    return (*sentences, *gone)


def _without(launches: list[_Launch], others: list[_Launch]) -> list[_Launch]:
    left = Counter(launch.key for launch in others)
    found = []
    for launch in launches:
        if left[launch.key]:
            left[launch.key] -= 1
        else:
            found.append(launch)
    return found


def _crossing(launch: _Launch, launches: list[_Launch]) -> str:
    """Return in words what may have made Inductor generate another kernel: the values that it shares with other streams."""
    shared: dict[str, set[str]] = {}
    for other in launches:
        if other.stream != launch.stream:
            for name in other.buffers & launch.buffers:
                shared.setdefault(name, set()).add(other.stream)
    if not shared:
        return ""
    values = ", ".join(f"{name} (used on {' and '.join(sorted(streams))})" for name, streams in sorted(shared.items()))
    return f": across streams it shares {values}"


def _launches(source: str) -> list[_Launch]:
    tree = ast.parse(source)
    kernels = dict(kernels_of(tree))
    methods = [statement for each in tree.body if isinstance(each, ast.ClassDef) for statement in each.body]
    defined = [each for each in (*tree.body, *methods) if isinstance(each, ast.FunctionDef)]
    functions = [function for function in defined if _LAUNCHING.fullmatch(function.name)]
    functions += [_with_plain_names(function) for function in _subgraphs(tree, functions)]
    return [launch for function in functions for launch in _Reader(kernels).launches(function.body, CALLER)]


def _subgraphs(tree: ast.Module, callers: Sequence[ast.FunctionDef]) -> list[ast.FunctionDef]:
    """Return the functions that `callers` call for one operator of the graph, such as a product that is split along K."""
    others = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name != STREAMED and s not in callers]
    if not others:
        return []
    calls = (node.func for caller in callers for node in ast.walk(caller) if isinstance(node, ast.Call))
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    return [function for function in others if function.name in called]


def _called(function: ast.expr) -> str:
    """Return the text of what is called. A wrapper has thousands of calls, nearly all of a dotted name."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name | ast.Attribute):
        return f"{_called(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ast.unparse(function)


def _with_plain_names(function: ast.FunctionDef) -> ast.FunctionDef:
    """Return the function of a subgraph with its names, which begin with its own name, as names of buffers.

    They have to be, because its inputs are not inputs of the graph.
    """
    plain = copy.deepcopy(function)
    for node in ast.walk(plain):
        if isinstance(node, ast.Name) and node.id.startswith(f"{function.name}_"):
            node.id = f"buf_{node.id.removeprefix(f'{function.name}_')}"
    return plain


class _Reader:
    """A pass over the statements of a function that knows which layouts and sizes names stand for."""

    def __init__(self, kernels: dict[str, str]) -> None:
        self._kernels = kernels
        self._layouts: dict[str, str] = {}
        self._sizes: dict[str, str] = {}

    def launches(self, statements: list[ast.stmt], stream: str) -> Iterator[_Launch]:
        for statement in statements:
            if isinstance(statement, ast.With):
                context = ast.unparse(statement.items[0].context_expr)
                inner = context if re.fullmatch(r"stream\d+", context) else stream
                yield from self.launches(statement.body, inner)
            elif isinstance(statement, ast.If | ast.For | ast.While | ast.Try):
                yield from self.launches([*statement.body, *statement.orelse], stream)
            elif isinstance(statement, ast.Expr | ast.Assign):
                yield from self._statement(statement, stream)

    def _statement(self, statement: ast.Expr | ast.Assign, stream: str) -> Iterator[_Launch]:
        value = statement.value
        for call in (node for node in ast.walk(value) if isinstance(node, ast.Call)):
            called = _called(call.func)
            if called.startswith("assert_size_stride"):
                self._assert(call)
            elif kernel := self._kernel(called):
                yield self._launch(call, called, kernel, stream)
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    self._assign(target.id, value)

    def _kernel(self, called: str) -> str:
        kernel = self._kernels.get(called.removesuffix(".run"))
        return kernel or (called if called.startswith(_OPERATORS) else "")

    def _launch(self, call: ast.Call, called: str, kernel: str, stream: str) -> _Launch:
        arguments = [self._described(argument) for argument in call.args]
        arguments += [f"{k.arg}={self._described(k.value)}" for k in call.keywords if k.arg != "stream"]
        if called.removesuffix(".run") in self._kernels:
            # The kernel's source says how it indexes memory. It has a pointer fewer if it writes one in place.
            arguments = [text for text in arguments if not text.startswith(("tensor", "input"))]
        names = frozenset(n.id for n in ast.walk(call) if isinstance(n, ast.Name) and _TENSOR.fullmatch(n.id))
        return _Launch("\n".join([kernel, *arguments]), called.removesuffix(".run"), call.lineno, stream, names)

    def _described(self, argument: ast.expr) -> str:
        """Return an argument in words without names: a tensor by its layout, a size by its value."""
        if isinstance(argument, ast.Call) and _called(argument.func) == "reinterpret_tensor":
            *layout, offset = (ast.unparse(part) for part in argument.args[1:])
            return f"tensor {', '.join([*layout, *([offset] if offset != '0' else [])])}"
        if isinstance(argument, ast.Name):
            if _INPUT.fullmatch(argument.id):
                return f"input {argument.id}"  # the same in both wrappers, though perhaps only one checks its layout
            if _TENSOR.fullmatch(argument.id):
                return f"tensor {self._layouts.get(argument.id, '')}"
            return self._sizes.get(argument.id, argument.id)
        if isinstance(argument, ast.List | ast.Tuple):
            return f"({', '.join(self._described(part) for part in argument.elts)})"
        return re.sub(_TENSOR, "tensor", ast.unparse(argument))

    def _assign(self, name: str, value: ast.expr) -> None:
        if not _TENSOR.fullmatch(name):
            # A size that is an input keeps its name, under which a part of a graph gets it.
            if not isinstance(value, ast.Name):
                self._sizes[name] = ast.unparse(value)
        elif isinstance(value, ast.Name):
            self._layouts[name] = self._layouts.get(value.id, "")
        elif isinstance(value, ast.Call):
            called = _called(value.func)
            if called.startswith("empty_strided"):
                self._layouts[name] = _layout(value.args[:2])
            elif called == "reinterpret_tensor":
                self._layouts[name] = _layout(value.args[1:3])

    def _assert(self, call: ast.Call) -> None:
        # Inductor asserts one buffer, or several in three tuples.
        tuples = [part.elts for part in call.args[:3] if isinstance(part, ast.Tuple)]
        for each, *layout in zip(*tuples, strict=True) if isinstance(call.args[0], ast.Tuple) else [call.args[:3]]:
            if isinstance(each, ast.Name):
                self._layouts[each.id] = _layout(layout)


def _layout(parts: list[ast.expr]) -> str:
    return ", ".join(ast.unparse(part) for part in parts)
