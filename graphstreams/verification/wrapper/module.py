"""Read the top level of a wrapper: the statements that Inductor writes there, and what each name stands for.

Every name is bound once. Anything else that a module could run at its import is refused. Read in torch 2.14.1 and 2.15.0:
`_inductor/codegen/wrapper.py` (write_header, write_prefix, generate_after_suffix, add_benchmark_harness),
`codegen/multi_kernel.py`.
"""

from __future__ import annotations

import ast
import builtins

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import dotted, full_path, is_literal, same, shortened
from graphstreams.verification.wrapper.names import ALIASES, HARNESS, IMPORTS, WrapperModule, check_function, read_slices

_NOTES = {"GRAPHSTREAMS"}
_COMPILER = "torch._inductor.async_compile.AsyncCompile"
_WAIT = "async_compile.wait(globals())"

_RUNNER = ast.parse("""
class Runner:
    def __init__(self, partitions):
        self.partitions = partitions
    def recursively_apply_fns(self, fns):
        new_callables = []
        for fn, c in zip(fns, self.partitions):
            new_callables.append(fn(c))
        self.partitions = new_callables
    def call(self, args):
        pass
""").body[0]


def read_module(tree: ast.Module) -> WrapperModule:
    """Return what the names of a module stand for. Raises UnreadableWrapper for a statement that Inductor does not write."""
    reader = _TopLevel(WrapperModule())
    for statement in tree.body:
        reader.read(statement)
    reader.finish()
    return reader.module


class _TopLevel:
    """A reader of the statements in the order in which Python runs them."""

    def __init__(self, module: WrapperModule) -> None:
        self.module = module
        self._slices: tuple[tuple[slice, ...], ...] = ()
        self._runner = self._waited = self._deleted = False

    def read(self, statement: ast.stmt) -> None:
        """Read one statement."""
        match statement:
            case ast.Import() | ast.ImportFrom(level=0):
                self._import(statement)
            case ast.FunctionDef(name=name):
                self._bind(name, statement)
                check_function(statement)
                self.module.functions[name] = statement
            case ast.ClassDef(name="Runner"):
                self._class(statement)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._assign(name, value)
            case ast.If(test=test, orelse=[]) if ast.unparse(test) == "__name__ == '__main__'":
                pass
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Expr(value=ast.Call(func=ast.Name(id=function), args=arguments, keywords=[])):
                self._runtime_call(function, arguments, statement)
            case ast.Expr() if ast.unparse(statement) == _WAIT and "async_compile" in self.module.names and not self._deleted:
                self._waited = True
            case ast.Delete(targets=[ast.Name(id="async_compile")]) if self._waited and not self._deleted:
                self._deleted = True
            case _:
                raise _not_generated(statement)

    def _runtime_call(self, function: str, arguments: list[ast.expr], statement: ast.stmt) -> None:
        """Read a call of this package's runtime that logs the verdict or loads kernels. Neither launches anything."""
        names = [argument.id for argument in arguments if isinstance(argument, ast.Name)]
        path = self.module.paths.get(function)
        announces = path == "graphstreams.runtime.verdicts.announce" and names == ["GRAPHSTREAMS"]
        settles = path == "graphstreams.runtime.dispatch.settle" and self._waited and set(names) <= set(self.module.kernels)
        if len(names) != len(arguments) or not (announces or settles):
            raise _not_generated(statement)

    def finish(self) -> None:
        """Find the subgraphs. Raises UnreadableWrapper for a function that nothing calls, and if there is no `call`."""
        module = self.module
        called = {"call", "call_on_streams", *module.partitions}
        nodes = [node for name in called & module.functions.keys() for node in ast.walk(module.functions[name])]
        names = {dotted(node.func) for node in nodes if isinstance(node, ast.Call)}
        module.subgraphs = names & module.functions.keys() - called - HARNESS
        for name, function in module.functions.items():
            if name not in {*called, *module.subgraphs, *HARNESS}:
                raise UnreadableWrapper(function.lineno, f"a function {name}, which wrappers do not have")
        if "call" not in module.functions:
            raise UnreadableWrapper(0, "there is no function call(args): this is not a wrapper that Inductor generated")

    def _bind(self, name: str, node: ast.stmt | ast.expr, repeated: bool = False) -> None:
        if name in self.module.names and not repeated:
            raise UnreadableWrapper(node.lineno, f"the name {name} bound a second time: {shortened(node)}")
        if hasattr(builtins, name) or name.startswith("__"):
            raise UnreadableWrapper(node.lineno, f"the name {name}, which is Python's own, bound: {shortened(node)}")
        self.module.names.add(name)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for name in statement.names:
            bound = name.asname or name.name
            path = f"{statement.module}.{name.name}" if isinstance(statement, ast.ImportFrom) else name.name
            if path not in IMPORTS or "." in bound:
                raise UnreadableWrapper(statement.lineno, f"an import that wrappers do not have: {shortened(statement)}")
            self._bind(bound, statement, repeated=self.module.paths.get(bound) == path)
            self.module.paths[bound] = path

    def _class(self, definition: ast.ClassDef) -> None:
        """Read the class that runs partitions, which is Inductor's except for the body of its `call`."""
        self._bind(definition.name, definition)
        match definition.body:
            case [*others, ast.FunctionDef(name="call") as call]:
                bare = ast.FunctionDef(**{**dict(ast.iter_fields(call)), "body": [ast.Pass()]})
                if same(ast.ClassDef(**{**dict(ast.iter_fields(definition)), "body": [*others, bare]}), _RUNNER):
                    self._call = call
                    return
        raise UnreadableWrapper(definition.lineno, "a class Runner that is not Inductor's")

    def _assign(self, name: str, value: ast.expr) -> None:
        repeated = False
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="async_compile"), attr=kind)):
                self._compiled(name, value, kind)
            case ast.Constant(value=None):
                self.module.tensors.add(name)
            case ast.Dict() if name == "arg_index":
                repeated = bool(self._slices)
                self._slices = read_slices(value)
            case ast.Call() if name == "runner" and "Runner" in self.module.names:
                self._take_partitions(value)
            case ast.Attribute() if name == "call" and self._runner and dotted(value) == "runner.call":
                self.module.functions[name] = self._call
            case ast.Attribute() if (path := full_path(value, self.module.paths)) in ALIASES:
                repeated = self.module.paths.get(name) == path
                self.module.paths[name] = path
            case _ if not self._only_binds(name, value):
                raise _not_generated(value)
        self._bind(name, value, repeated)

    def _only_binds(self, name: str, value: ast.expr) -> bool:
        """Return whether an assignment is known and tells nothing but that the name is bound."""
        match value:
            case ast.Attribute():
                return name == "recursively_apply_fns" and self._runner and dotted(value) == "runner.recursively_apply_fns"
            case ast.Call(func=ast.Name(id=made), args=[], keywords=[]):
                return name == "async_compile" and self.module.paths.get(made) == _COMPILER
            case ast.Constant(value=str()) | ast.Tuple():
                return name in _NOTES and is_literal(value)
        return False

    def _compiled(self, name: str, call: ast.Call, kind: str) -> None:
        if "async_compile" not in self.module.names or self._waited:
            raise UnreadableWrapper(call.lineno, f"{name} compiled after async_compile.wait")
        match call:
            case ast.Call(
                args=[ast.Constant(value=str(own)), ast.Constant(value=str(source))],
                keywords=[ast.keyword(arg="device_str", value=ast.Constant(value="cuda"))],
            ) if kind == "triton":
                self.module.kernels[name] = (source, call.lineno, own)
            case ast.Call(
                args=[ast.Constant(value=str()), ast.List(elts=parts)],
                keywords=[ast.keyword(arg="arg_index", value=ast.Name(id="arg_index"))],
            ) if kind == "multi_kernel":
                names = tuple(dotted(part) for part in parts)
                if len(names) != len(self._slices) or not self.module.kernels.keys() >= set(names):
                    raise UnreadableWrapper(call.lineno, f"{name}: {shortened(call)}")
                self.module.multi_kernels[name] = tuple(zip(names, self._slices, strict=True))
            case ast.Call(args=[ast.List(elts=types), ast.Constant(value=str())], keywords=[]) if kind == "cpp_pybinding":
                self.module.host_kernels[name] = tuple(
                    ast.literal_eval(kind) for kind in types if isinstance(kind, ast.Constant)
                )
            case _:
                raise UnreadableWrapper(call.lineno, f"{name}, compiled by async_compile.{kind}: such kernels are not read")

    def _take_partitions(self, value: ast.Call) -> None:
        match value:
            case ast.Call(
                func=ast.Name(id="Runner"), args=[], keywords=[ast.keyword(arg="partitions", value=ast.List(elts=parts))]
            ):
                names = self.module.partitions = tuple(map(dotted, parts))
                if len(set(names)) == len(names) and self.module.functions.keys() >= set(names):
                    self._runner = True
                    return
        raise _not_generated(value)


def _not_generated(node: ast.stmt | ast.expr) -> UnreadableWrapper:
    return UnreadableWrapper(node.lineno, f"at the top level: {shortened(node)}: this is not a wrapper that Inductor generated")
