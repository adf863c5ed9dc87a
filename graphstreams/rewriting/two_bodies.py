"""Put the streamed body of a graph beside its serial body, in one wrapper, with the kernels that both launch written once.

All is text. `serial` is the wrapper that Inductor generated for the graph, `streamed` the one it generated for the rewritten
graph. The result differs from `serial` in what it adds: imports, kernels that only the streamed body launches, one function,
and one statement at the start of the function that launches the kernels. Read in torch 2.15.0: `_inductor/codegen/wrapper.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphstreams.errors import CannotJoin

STREAMED = "call_on_streams"  # the function that is added
DISPATCH_IMPORT = "from graphstreams.runtime.dispatch import runs_on_streams as _runs_on_streams"
SETTLE_IMPORT = "from graphstreams.runtime.dispatch import settle as _settle"
_WAIT = "async_compile.wait(globals())"
_HARNESS = ("get_args", "benchmark_compiled_module")


@dataclass(frozen=True)
class Host:
    """The function of a serial wrapper that launches its kernels."""

    name: str  # "call", or "partition_0" where Inductor makes CUDA graphs
    inputs: tuple[str, ...]  # names in the order of its list of arguments
    outputs: tuple[str, ...]  # names of what it returns; empty for `call`, whose order is the graph's own
    aligned: tuple[str, ...]  # inputs that it copies if they are misaligned


@dataclass(frozen=True)
class Joined:
    """A wrapper with two bodies. `added` tells how many lines were put in front of which line of the serial wrapper."""

    source: str
    added: tuple[tuple[int, int], ...]
    own_kernels: int  # kernels that only the streamed body launches


def find_host(serial: str) -> Host:
    """Return the function of a serial wrapper that launches its kernels. Raises CannotJoin if they are in several."""
    tree = ast.parse(serial)
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    partitions = [name for name in functions if re.fullmatch(r"partition_\d+", name)]
    if len(partitions) > 1:
        raise CannotJoin(f"Inductor cuts it into {len(partitions)} CUDA graphs")
    name = partitions[0] if partitions else "call"
    function = functions[name] if name in functions else _method(tree, name)
    outputs = _returned_names(function) if partitions else ()
    return Host(name, _unpacked(function), outputs, tuple(_aligned(function)))


def join(
    serial: str, streamed: str, host: Host, condition: str, outputs: Mapping[str, str], settled: bool = True,
    lines: Sequence[str] = (),
) -> Joined:  # fmt: skip
    """Return `serial` with the body of `streamed` added, which runs if `condition` (the arguments of the check) holds.

    `outputs` maps each buffer that `host` returns to the buffer of `streamed` that holds the same value. With `settled` kernels
    that only the streamed body launches get one configuration when the wrapper is loaded. `lines` are added at the top level.
    Raises CannotJoin if `streamed` holds anything at its top level for which there is no rule.
    """
    first, second = ast.parse(serial), ast.parse(streamed)
    new = _Additions(serial, first, streamed, second)
    function = next(f for f in second.body if isinstance(f, ast.FunctionDef) and f.name == "call")
    body = _body(function, streamed, host, outputs, new.renamed)
    target = _function(first, host.name)
    start = target.body[0]
    indent = " " * start.col_offset
    settling = [f"_settle({', '.join(new.own)})"] if new.own and settled else []
    additions = {
        _line_of_wait(first): [
            *new.imports([DISPATCH_IMPORT, *([SETTLE_IMPORT] if settling else [])]),
            *lines,
            *new.kernels,
            *body,
        ],
        _line_of_wait(first) + 1: settling,
        start.lineno: [f"{indent}if _runs_on_streams(args, {condition}):", f"{indent}    return {STREAMED}(args)"],
    }
    return _inserted(serial, additions, len(new.own))


def add_lines(serial: str, lines: Sequence[str]) -> Joined:
    """Return the serial wrapper with `lines` added to its top level."""
    return _inserted(serial, {_line_of_wait(ast.parse(serial)): list(lines)}, 0)


def _inserted(serial: str, additions: Mapping[int, Sequence[str]], own: int) -> Joined:
    lines: list[str] = []
    for number, line in enumerate(serial.split("\n"), 1):
        lines += [*additions.get(number, ()), line]
    added = tuple((at, sum(new.count("\n") + 1 for new in additions[at])) for at in sorted(additions))
    return Joined("\n".join(lines), added, own)


class _Additions:
    """What the top level of the streamed wrapper adds to that of the serial one."""

    def __init__(self, serial: str, first: ast.Module, streamed: str, second: ast.Module) -> None:
        self._present = {ast.unparse(statement) for statement in first.body}
        self._bound = set(_bound_names(first))
        self.renamed: dict[str, str] = {}
        self.kernels: list[str] = []
        self.own: list[str] = []
        self._imports: list[str] = []
        known = {_anonymous(source, name): name for name, source in _kernels(first)}
        sources = dict(_kernels(second))
        for statement in second.body:
            if ast.unparse(statement) in self._present or _is_frame(statement):
                continue
            name = _kernel_name(statement)
            if name is None:
                self._add_import(statement)
            elif (same := known.get(_anonymous(sources[name], name))) is not None:
                self.renamed[name] = same
            else:
                self._add_kernel(name, ast.get_source_segment(streamed, statement) or "")

    def imports(self, more: Sequence[str]) -> list[str]:
        """The imports that the serial wrapper lacks."""
        return [line for line in (*self._imports, *more) if line not in self._present]

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
        self.kernels += re.sub(rf"\b{re.escape(name)}\b", new, text).split("\n")


def _body(
    function: ast.FunctionDef, source: str, host: Host, outputs: Mapping[str, str], renamed: Mapping[str, str]
) -> list[str]:
    """The lines of the added function: those of the streamed `call`, with the arguments and results of the host."""
    own = _unpacked(function)
    first, last = function.body[0], function.body[-1]
    lines = source.split("\n")[function.lineno : function.end_lineno]
    at = {statement.lineno - function.lineno - 1: statement for statement in function.body}
    if host.name == "call":
        if own != host.inputs:
            raise CannotJoin("its two bodies take other inputs")
    else:
        _check_used(function, own, host)
        lines[at_line(first, function)] = f"    {', '.join(host.inputs)}{',' * (len(host.inputs) == 1)} = args"
        # A size that the host is given by its name is not read from an input a second time.
        gone = {at_line(s, function) for s in at.values() if _assigns_size(s, host)}
        _replace_return(lines, last, function, [outputs[name] for name in host.outputs])
        lines = [line for number, line in enumerate(lines) if number not in gone]
    if renamed:
        names = re.compile(rf"\b({'|'.join(map(re.escape, renamed))})\b")
        lines = [names.sub(lambda match: renamed[match[1]], line) for line in lines]
    return [f"def {STREAMED}(args):", *lines, ""]


def at_line(statement: ast.stmt, function: ast.FunctionDef) -> int:
    """Return the place of a statement among the lines behind the function's first."""
    return statement.lineno - function.lineno - 1


def _check_used(function: ast.FunctionDef, own: Sequence[str], host: Host) -> None:
    # The return is written anew: what only it reads is returned by the caller of the part.
    loaded = {node.id for s in function.body[1:-1] for node in ast.walk(s) if isinstance(node, ast.Name)}
    sizes = {s.value.id for s in function.body if _assigns_size(s, host)}  # type: ignore[attr-defined]
    missing = [name for name in own if name in loaded and name not in host.inputs and name not in sizes]
    if missing:
        raise CannotJoin(f"its streamed body reads {missing[0]}, which {host.name} is not given")


def _assigns_size(statement: ast.stmt, host: Host) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=source)):
            return name in host.inputs and source not in host.inputs
    return False


def _replace_return(lines: list[str], last: ast.stmt, function: ast.FunctionDef, names: Sequence[str]) -> None:
    if not isinstance(last, ast.Return) or last.lineno != last.end_lineno:
        raise CannotJoin("its streamed body does not end in a return of one line")
    lines[at_line(last, function)] = f"    return ({''.join(f'{name}, ' for name in names)})"


def _unpacked(function: ast.FunctionDef) -> tuple[str, ...]:
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


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return statement
    return _method(tree, name)


def _method(tree: ast.Module, name: str) -> ast.FunctionDef:
    for statement in tree.body:
        for inner in statement.body if isinstance(statement, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and inner.name == name:
                return inner
    raise CannotJoin(f"its wrapper has no function {name}")


def _line_of_wait(tree: ast.Module) -> int:
    found = [statement.lineno for statement in tree.body if ast.unparse(statement) == _WAIT]
    if len(found) != 1:
        raise CannotJoin(f"its wrapper has {len(found)} times {_WAIT}")
    return found[0]


def _is_frame(statement: ast.stmt) -> bool:
    """Whether every wrapper has such a statement, or none needs it a second time."""
    match statement:
        case ast.FunctionDef(name=name):
            return name == "call" or name in _HARNESS
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
    return False


def _kernel_name(statement: ast.stmt) -> str | None:
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


def _kernels(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in tree.body:
        name = _kernel_name(statement)
        if name is not None:
            yield name, ast.unparse(statement)


def _anonymous(source: str, name: str) -> str:
    """The definition of a kernel without its name, which holds a number that Inductor counts up.

    Nor with its tiling scores, by which block sizes are guessed, and which Inductor does not compute for every body alike.
    """
    return re.sub(r"'tiling_scores': \{[^}]*\}, ", "", re.sub(rf"\b{re.escape(name)}\b", "KERNEL", source))


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
