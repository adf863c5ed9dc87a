"""Read the statements of a wrapper's functions in the order in which Python runs them, without running them.

Wrappers are straight-line code without loops, and their only branches raise. Anything else is refused. Read in torch 2.14.1 and
2.15.0: `_inductor/codegen/wrapper.py` (write_args, codegen_inputs, generate, generate_return,
codegen_partition_call, codegen_subgraph_call_with_flattened_outputs).
"""

from __future__ import annotations

import ast

from graphstreams.verification.syntax import same, shortened
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    CONTEXT,
    NOTHING,
    ConstantValue,
    EventValue,
    GroupValue,
    SequenceValue,
    StreamValue,
    TensorValue,
    Value,
    storages_of,
    use,
)
from graphstreams.verification.wrapper.control_flow import ControlFlowReader
from graphstreams.verification.wrapper.inputs import Inputs
from graphstreams.verification.wrapper.names import WrapperModule

_ADOPT = "graphstreams.runtime.dispatch.adopt"
_PROFILER = ast.parse("from torch.profiler import record_function").body[0]


class CallReader(ControlFlowReader):
    """A reader of the functions that one call runs. What they do goes into a machine."""

    def __init__(self, module: WrapperModule, machine: AbstractMachine) -> None:
        super().__init__(module, machine)
        self._inputs = Inputs(machine)
        self._called: set[str] = set()  # partitions and subgraphs
        self._in_subgraph = False
        self._returned: Value | None = None
        self._is_method = False

    def read(self, function: ast.FunctionDef) -> None:
        """Read a call from its inputs to its outputs. Raises UnreadableWrapper for what is not understood."""
        self._machine.line = function.lineno
        result = self._run(function, self._inputs.list)
        self._machine.outputs.extend(storages_of(result))
        self._machine.heap.hold(result)

    # --- functions

    def _run(self, function: ast.FunctionDef, arguments: SequenceValue) -> Value:
        heap, line = self._machine.heap, self._machine.line
        outer = self._names, self._taken, self._is_method, self._profiler
        self._names, self._taken, self._profiler = {}, _items_taken(function), False
        self._is_method = len(function.args.args) == 2
        self._bind("args", arguments)
        self._block(function.body)
        result, self._returned = self._returned, None
        if result is None:
            raise self._machine.unsupported(f"{function.name} ends without a return; the source may be cut off")
        for value in self._names.values():
            heap.drop(value)
        heap.lend(result)
        self._names, self._taken, self._is_method, self._profiler = outer
        self._machine.line = line
        return result

    def _function_result(self, targets: int, call: ast.expr) -> Value | None:
        """Return the result of a partition or a subgraph that `call` runs; None for any other expression."""
        name, listed = self._callee(targets, call)
        if not name:
            return None
        arguments = self._names.get(listed)
        if name in self._called:
            raise self._machine.unsupported(f"{name}, called a second time")
        if not isinstance(arguments, SequenceValue) or arguments.places is not None or arguments is self._inputs.list:
            raise self._machine.unsupported(f"{shortened(call)}, which is not given a list of this call")
        use(arguments)  # a size goes there by its own name, so an input that does not is a tensor
        self._called.add(name)
        self._in_subgraph = name in self._module.subgraphs
        result = self._run(self._module.functions[name], arguments)
        self._in_subgraph = False
        return result

    def _callee(self, targets: int, call: ast.expr) -> tuple[str, str]:
        """Return the function that a call runs and the name of its list of arguments.

        A partition runs by `self.partitions[0](partition0_args)`. A product that is split along K is a subgraph, which runs by
        `(buf0,) = name(name_args)`.
        """
        match call:
            case ast.Call(
                func=ast.Subscript(
                    value=ast.Attribute(value=ast.Name(id="self"), attr="partitions"), slice=ast.Constant(value=int(index))
                ),
                args=[ast.Name(id=listed)],
                keywords=[],
            ) if self._is_method and 0 <= index < len(self._module.partitions):
                return self._module.partitions[index], listed
            case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=listed)], keywords=[]) if (
                name in self._module.subgraphs and targets == 1 and listed == f"{name}_args" and not self._in_subgraph
            ):
                return name, listed
        return "", ""

    # --- statements

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._machine.line = statement.lineno
            if self._returned is not None:
                raise self._machine.unsupported(f"{shortened(statement)}, behind a return")
            self._statement(statement)
            self._machine.heap.collect()

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value)
            case ast.Delete(targets=targets):
                self._delete(targets)
            case ast.Expr(value=ast.Call(func=ast.Name() as function) as call) if self._path(function) == _ADOPT:
                self._check_adopted(call)
            case ast.Expr(value=ast.Call() as call):
                self._call(call)
            case ast.With(items=[ast.withitem(context_expr=context, optional_vars=None)], body=body):
                outer, self._machine.stream = self._machine.stream, self._entered(context)
                self._block(body)
                self._machine.stream = outer
            case ast.Try(body=body, handlers=[handler], orelse=[], finalbody=[]):
                self._check_handler(handler)
                self._block(body)
                self._check_handler(handler)  # again, because the body may have acquired streams
            case ast.Return(value=ast.Tuple(elts=elements)):
                self._returned = self._machine.heap.sequence([self._reference(element) for element in elements])
                self._machine.heap.hold(self._returned)
            case ast.ImportFrom() if same(statement, _PROFILER):
                self._profiler = True
            case ast.Pass():
                pass
            case _:
                self._check(statement)

    def _check_adopted(self, call: ast.Call) -> None:
        """Read a choice of a kernel's configuration, which launches nothing. It names kernels."""
        names = [argument.id for argument in call.args if isinstance(argument, ast.Name)]
        kernels = self._module.kernels.keys() - self._names.keys()
        if call.keywords or not 1 <= len(names) == len(call.args) <= 2 or not set(names) <= kernels:
            raise self._machine.unsupported(f"{shortened(call)}, which names no kernels")

    def _assign(self, target: ast.expr, source: ast.expr) -> None:
        if isinstance(target, ast.Tuple):
            self._unpack(target, source)
        elif not isinstance(target, ast.Name):
            raise self._machine.unsupported(f"an assignment to {shortened(target)}")
        elif isinstance(source, ast.List) or (target.id == "return_vars" and isinstance(source, ast.Tuple)):
            self._bind(target.id, self._machine.heap.sequence([self._reference(element) for element in source.elts]))
        else:
            self._assign_name(target.id, source)

    def _assign_name(self, name: str, source: ast.expr) -> None:
        self._target = name
        value = self._value(source)
        if isinstance(source, ast.Name):
            if self._inputs.becomes_size(name, value):
                value = self._names[source.id] = ConstantValue(name=source.id)
            elif isinstance(value, TensorValue):
                use(value)
                if len(value.all) == 1:  # a storage that moves to another name is called by both
                    value.all[0].names[name] = None
        self._bind(name, value)

    def _reference(self, node: ast.expr) -> Value:
        """Return an output, or an item of a list of arguments."""
        value = self._argument(node)
        if not isinstance(value, TensorValue | ConstantValue):
            raise self._machine.unsupported(f"{shortened(node)}, where a tensor or a number is expected")
        return value

    def _unpack(self, target: ast.Tuple, source: ast.expr) -> None:
        names = [element.id for element in target.elts if isinstance(element, ast.Name)]
        if len(names) != len(target.elts) or len(set(names)) != len(names):
            raise self._machine.unsupported(f"an assignment to {shortened(target)}")
        value = self._function_result(len(names), source) or self._value(source)
        if value is self._inputs.list:
            self._inputs.take(names)
        if not isinstance(value, SequenceValue) or value.places is not None or len(value.items) != len(names):
            raise self._machine.unsupported(f"{len(names)} names for what is not a tuple of that length")
        for name, item in zip(names, value.items, strict=True):
            self._bind(name, item)

    def _bind(self, name: str, value: Value) -> None:
        before = self._names.get(name)
        if value is NOTHING or value is CONTEXT or isinstance(value, GroupValue):
            raise self._machine.unsupported(f"{name} bound to what is no value")
        if name in self._module.names or name in self._module.paths or name == "self" or name.startswith("__"):
            raise self._machine.unsupported(f"{name}, a name of the module or of Python, bound in a function")
        if isinstance(before, StreamValue | EventValue):
            raise self._machine.unsupported(f"{name} bound again: a handler that names it does not join all aux streams")
        known = isinstance(value, SequenceValue) and value.named
        unnamed = [] if known else [storage for storage in storages_of(value) if not storage.names]
        for position, storage in enumerate(unnamed):
            storage.names[name if isinstance(value, TensorValue) else f"{name}[{position}]"] = None
        if isinstance(value, SequenceValue):
            value.named = True
        self._machine.heap.hold(value)
        self._names[name] = value
        if before is not None:
            self._machine.heap.drop(before)

    def _delete(self, targets: list[ast.expr]) -> None:
        for target in targets:
            name = target.id if isinstance(target, ast.Name) else ""
            if name not in self._names:
                raise self._machine.unsupported(f"del {shortened(target)}, which is not a name of this function")
            if isinstance(self._names[name], StreamValue | EventValue):
                raise self._machine.unsupported(f"del {name}, a stream or an event")
            self._machine.heap.drop(self._names.pop(name))


def _items_taken(function: ast.FunctionDef) -> dict[str, tuple[int, ...]]:
    """Return, by name, the numbers by which the function takes items of it."""
    found: dict[str, set[int]] = {}
    for node in ast.walk(function):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(place))) if place >= 0:
                found.setdefault(name, set()).add(place)
    return {name: tuple(sorted(places)) for name, places in found.items()}
