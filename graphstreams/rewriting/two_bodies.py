"""Put the streamed body of a graph into the wrapper of its serial body, where both share the kernels that both launch.

Both wrappers are text: `serial` is the one that Inductor generated for the graph, `streamed` the one for the rewritten graph.
The result is `serial` with additions: imports, kernels that only the streamed body launches, one function, and one statement
at the start of the function that launches the kernels. Read in torch 2.15.0: `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphstreams.errors import CannotJoin
from graphstreams.rewriting import wrapper_source
from graphstreams.rewriting.wrapper_source import Host, kernel_name, unnamed_kernel

STREAMED = "call_on_streams"  # the function that is added
DISPATCH_IMPORT = "from graphstreams.runtime.dispatch import runs_on_streams as _runs_on_streams"
SETTLE_IMPORT = "from graphstreams.runtime.dispatch import adopt as _adopt, settle as _settle"


@dataclass(frozen=True)
class Joined:
    """A wrapper with two bodies."""

    source: str
    added: tuple[tuple[int, int], ...]  # (line of the serial wrapper, how many lines were put before it)
    own_kernels: int  # kernels that only the streamed body launches


def join(
    serial: str, streamed: str, host: Host, condition: str, outputs: Mapping[str, str], settled: bool = True,
    lines: Sequence[str] = (),
) -> Joined:  # fmt: skip
    """Return `serial` with the body of `streamed` added, which runs if `condition` (the arguments of the check) holds.

    `outputs` maps each buffer that `host` returns to the buffer of `streamed` that holds the same value. With `settled` the
    kernels that only the streamed body launches are loaded with the wrapper, and in a capture get one configuration without
    being timed. `lines` are added at the top level.
    Raises CannotJoin if the top level of `streamed` has a statement for which there is no rule.
    """
    first, second = ast.parse(serial), ast.parse(streamed)
    new = _Additions(first, streamed, second)
    function = next(f for f in second.body if isinstance(f, ast.FunctionDef) and f.name == "call")
    body = _body(function, streamed, host, outputs, new.renamed)
    start, wait = wrapper_source.function_named(first, host.name).body[0], wrapper_source.line_of_wait(first)
    indent = " " * start.col_offset
    settling = [f"_settle({', '.join(new.own)})"] if new.own and settled else []
    if settling:
        body[1:1] = [f"    _adopt({', '.join([name, *new.alike(name)])})" for name in new.own]
    imports = new.imports([DISPATCH_IMPORT, *([SETTLE_IMPORT] if settling else [])])
    additions = {
        wait: [*imports, *lines, *new.kernels, *body],
        wait + 1: settling,
        start.lineno: [f"{indent}if _runs_on_streams(args, {condition}):", f"{indent}    return {STREAMED}(args)"],
    }
    return _inserted(serial, additions, len(new.own))


def add_lines(serial: str, lines: Sequence[str]) -> Joined:
    """Return the serial wrapper with `lines` added to its top level."""
    return _inserted(serial, {wrapper_source.line_of_wait(ast.parse(serial)): list(lines)}, 0)


def _inserted(serial: str, additions: Mapping[int, Sequence[str]], own: int) -> Joined:
    lines: list[str] = []
    for number, line in enumerate(serial.split("\n"), 1):
        lines += [*additions.get(number, ()), line]
    added = tuple((at, sum(new.count("\n") + 1 for new in additions[at])) for at in sorted(additions))
    return Joined("\n".join(lines), added, own)


class _Additions:
    """The statements that the top level of the streamed wrapper adds to that of the serial one."""

    def __init__(self, first: ast.Module, streamed: str, second: ast.Module) -> None:
        self._present = {ast.unparse(statement) for statement in first.body}
        self._bound = set(wrapper_source.bound_names(first))
        self.renamed: dict[str, str] = {}  # kernel of the streamed wrapper -> what it is called in the result
        self.kernels: list[str] = []  # lines that define the kernels that only the streamed body launches
        self.own: list[str] = []  # their names
        self._own_sizes: dict[str, str] = {}
        self._sizes = {
            name: _size_hints(ast.unparse(statement)) for statement in first.body if (name := kernel_name(statement))
        }
        self._imports: list[str] = []
        known = {unnamed_kernel(statement, name): name for statement in first.body if (name := kernel_name(statement))}
        for statement in second.body:
            if ast.unparse(statement) in self._present or wrapper_source.is_frame(statement):
                continue
            name = kernel_name(statement)
            if name is None:
                self._add_import(statement)
            elif (same := known.get(unnamed_kernel(statement, name))) is not None:
                self.renamed[name] = same
            else:
                self._add_kernel(name, ast.get_source_segment(streamed, statement) or "")

    def imports(self, more: Sequence[str]) -> list[str]:
        """Return the imports that the serial wrapper lacks, with those of `more`."""
        return [line for line in (*self._imports, *more) if line not in self._present]

    def alike(self, name: str) -> list[str]:
        """Return the serial wrapper's kernel with the operators and sizes of an own one, as a list of one or none."""
        found = [other for other in self._sizes if _operators(other) == _operators(name)]
        return [other for other in found if self._sizes[other] == self._own_sizes[name]][:1]

    def _add_import(self, statement: ast.stmt) -> None:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            raise CannotJoin(f"its streamed wrapper has {' '.join(ast.unparse(statement).split())[:80]!r} at the top level")
        for alias in statement.names:
            name = alias.asname or alias.name.partition(".")[0]
            if name in self._bound and not isinstance(statement, ast.Import):
                raise CannotJoin(f"its two wrappers mean different things by {name!r}")
        self._imports.append(ast.unparse(statement))

    def _add_kernel(self, name: str, text: str) -> None:
        new = name if name not in self._bound else f"{name}_streams"
        if new in self._bound:
            raise CannotJoin(f"its serial wrapper has a kernel named {new}")
        self._bound.add(new)
        self.renamed[name] = new
        self.own.append(new)
        self._own_sizes[new] = _size_hints(text)
        self.kernels += re.sub(rf"\b{re.escape(name)}\b", new, text).split("\n")


def _operators(kernel: str) -> str:
    """Return the part of a kernel's name that tells its kind and operators: Inductor counts kernels at its end."""
    return re.sub(r"_\d+$", "", kernel.removesuffix("_streams"))


def _size_hints(kernel: str) -> str:
    """Return the sizes by which Inductor chooses configurations of a kernel, from its definition."""
    found = re.search(r"size_hints=(\{[^}]*\})", kernel)
    return found[1].replace("\\", "") if found else ""  # a text with quotes of both kinds is unparsed with backslashes


def _body(
    function: ast.FunctionDef, source: str, host: Host, outputs: Mapping[str, str], renamed: Mapping[str, str]
) -> list[str]:
    """Return the lines of the added function: those of the streamed `call`, with the arguments and results of the host."""
    own = wrapper_source.unpacked_inputs(function)
    first, last = function.body[0], function.body[-1]
    lines = source.split("\n")[function.lineno : function.end_lineno]
    if host.name == "call":
        if own != host.inputs:
            raise CannotJoin("its two bodies take other inputs")
    else:
        sizes = _unneeded_sizes(function, host)
        _check_used(function, own, host, sizes)
        lines[_place(first, function)] = f"    {', '.join(host.inputs)}{',' * (len(host.inputs) == 1)} = args"
        gone = {_place(s, function) for s in sizes}
        _replace_return(lines, last, function, [outputs[name] for name in host.outputs])
        lines = [line for number, line in enumerate(lines) if number not in gone]
    if renamed:
        names = re.compile(rf"\b({'|'.join(map(re.escape, renamed))})\b")
        lines = [names.sub(lambda match: renamed[match[1]], line) for line in lines]
    return [f"def {STREAMED}(args):", *lines, ""]


def _place(statement: ast.stmt, function: ast.FunctionDef) -> int:
    """Return the place of a statement among the lines after the function's first."""
    return statement.lineno - function.lineno - 1


def _check_used(function: ast.FunctionDef, own: Sequence[str], host: Host, unneeded: Sequence[ast.stmt]) -> None:
    # The return is replaced: the caller of the host returns what only the graph's own return reads.
    loaded = set().union(*(_names(s) for s in function.body[1:-1] if s not in unneeded))
    if missing := [name for name in own if name in loaded and name not in host.inputs]:
        raise CannotJoin(f"its streamed body reads {missing[0]}, which {host.name} is not given")


def _unneeded_sizes(function: ast.FunctionDef, host: Host) -> list[ast.stmt]:
    """Return the statements that read a size from an input which the host lacks: it is given the size, or nothing uses it."""
    found: list[ast.stmt] = []
    for place, statement in enumerate(function.body[1:-1], 1):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=source)) if source not in host.inputs:
                used = set().union(*(_names(s) for s in function.body[place + 1 : -1]))
                if name in host.inputs or name not in used:
                    found.append(statement)
    return found


def _names(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _replace_return(lines: list[str], last: ast.stmt, function: ast.FunctionDef, names: Sequence[str]) -> None:
    if not isinstance(last, ast.Return) or last.lineno != last.end_lineno:
        raise CannotJoin("its streamed body does not end in a return of one line")
    lines[_place(last, function)] = f"    return ({''.join(f'{name}, ' for name in names)})"
