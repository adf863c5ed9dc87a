"""The top level of a wrapper: what its names stand for, and where the call begins."""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass, field

from graphstreams.verification.kernels import Kernel, read_kernel
from graphstreams.verification.unreadable import UnreadableWrapper
from graphstreams.verification.values import Constant, Named, Path, Value


@dataclass
class Module:
    """Names of a wrapper's module. Kernels are read when they are first used."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    kernels: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # source, line, the function that is launched
    paths: dict[str, str] = field(default_factory=dict)
    tensors: set[str] = field(default_factory=set)  # constants that Inductor sets after the import
    unknown: dict[str, int] = field(default_factory=dict)  # names bound to something not understood
    runner: ast.ClassDef | None = None
    partitions: tuple[str, ...] = ()
    _read: dict[str, Kernel] = field(default_factory=dict)

    def kernel(self, name: str) -> Kernel:
        if name not in self._read:
            self._read[name] = read_kernel(name, *self.kernels[name])
        return self._read[name]

    def entry(self) -> ast.FunctionDef:
        """`call` of the runner, else the function of that name."""
        for statement in self.runner.body if self.runner else ():
            if isinstance(statement, ast.FunctionDef) and statement.name == "call":
                return statement
        if "call" in self.functions:
            return self.functions["call"]
        raise UnreadableWrapper(0, "there is no function call(args): this is not a wrapper that Inductor generated")

    def lookup(self, name: str) -> Value | None:
        """What a name of the module stands for; None where it is not known."""
        if name in self.functions or name in self.kernels:
            return Named(name)
        if name in self.paths:
            return Path(self.paths[name])
        if name in ("inf", "nan"):
            return Constant()
        if hasattr(builtins, name) and name not in self.unknown:
            return Path(f"builtins.{name}")
        return None


def read_module(tree: ast.Module) -> Module:
    """Read the top level; a statement that could run something unknown at import is refused."""
    module = Module()
    for statement in tree.body:
        _read_statement(module, statement)
    return module


def _read_statement(module: Module, statement: ast.stmt) -> None:
    match statement:
        case ast.Import() | ast.ImportFrom():
            _read_import(module, statement)
        case ast.FunctionDef(name=name):
            module.functions[name] = statement
        case ast.ClassDef():
            if module.runner is not None:
                raise UnreadableWrapper(statement.lineno, f"a second class, {statement.name}")
            module.runner = statement
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            _read_assignment(module, name, value)
        case ast.Delete() | ast.Expr(value=ast.Constant()) | ast.Pass():
            pass
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="async_compile"), attr="wait"))):
            pass
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            pass
        case _:
            raise UnreadableWrapper(statement.lineno, f"at the top level: {shortened(statement)}")


def _read_import(module: Module, statement: ast.Import | ast.ImportFrom) -> None:
    for name in statement.names:
        if isinstance(statement, ast.ImportFrom):
            module.paths[name.asname or name.name] = f"{statement.module}.{name.name}"
        elif name.asname:
            module.paths[name.asname] = name.name
        else:
            top = name.name.partition(".")[0]
            module.paths[top] = top


def _read_assignment(module: Module, name: str, value: ast.expr) -> None:
    """Later bindings replace earlier ones, as they do at import."""
    module.paths.pop(name, None)
    match value:
        case ast.Constant(value=None):
            module.tensors.add(name)
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="async_compile"), attr="triton"),
            args=[ast.Constant(value=str(entry)), ast.Constant(value=str(source)), *_],
        ):
            module.kernels[name] = (source, value.lineno, entry)
        case ast.Call(func=ast.Name(id=function), keywords=[ast.keyword(arg="partitions", value=ast.List(elts=parts))]):
            if module.runner is None or function != module.runner.name:
                module.unknown[name] = value.lineno
            module.partitions = tuple(part.id for part in parts if isinstance(part, ast.Name))
        case ast.Attribute() | ast.Name():
            path = dotted(value)
            root, _, rest = path.partition(".")
            if root in module.paths:
                module.paths[name] = ".".join(filter(None, (module.paths[root], rest)))
            else:
                module.unknown[name] = value.lineno
        case _:
            module.unknown[name] = value.lineno


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty where the expression is anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def shortened(node: ast.AST) -> str:
    """The source of a node in one line of a message."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 120 else text[:117] + "..."
