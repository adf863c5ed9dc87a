"""Read the expressions in a wrapper's function: sizes, tensors and views of them, arguments, calls."""

from __future__ import annotations

import ast
from dataclasses import replace

from graphstreams.verification.syntax import dotted, full_path, shortened
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    NOTHING,
    Call,
    ConstantValue,
    EventValue,
    GroupValue,
    SequenceValue,
    StreamValue,
    TensorValue,
    Value,
    computed,
)
from graphstreams.verification.wrapper.kernel_calls import call_host_kernel, call_kernels
from graphstreams.verification.wrapper.known_calls import PURE, call_path, tensor_method
from graphstreams.verification.wrapper.names import WrapperModule
from graphstreams.verification.wrapper.operator_schemas import is_type
from graphstreams.verification.wrapper.sizes_told import asserted_sizes
from graphstreams.verification.wrapper.stream_calls import stream_method

_NUMBERS = (ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp)
_SIZES = {"size", "stride"}


class ExpressionReader:
    """A reader of expressions over the names of the function that is being read."""

    def __init__(self, module: WrapperModule, machine: AbstractMachine) -> None:
        self._module = module
        self._machine = machine
        self._names: dict[str, Value] = {}
        self._taken: dict[str, tuple[int, ...]] = {}  # by name, which items the function takes of it
        self._target = ""  # the name that the running statement binds to a call's result
        self._globals: dict[str, TensorValue] = {}

    def _path(self, node: ast.expr) -> str:
        """Return the full path of what is imported or built in; empty for a value of the function."""
        return "" if dotted(node).partition(".")[0] in self._names else full_path(node, self._module.paths)

    def _value(self, node: ast.expr) -> Value:
        """Return what stands on the right of an assignment."""
        match node:
            case ast.Name():
                return self._name(node)
            case ast.Call():
                return self._call(node)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(place))) if isinstance(
                sequence := self._names.get(name), SequenceValue
            ):
                return self._item(sequence, place, node)
            case ast.IfExp(test=ast.Call() as item, body=ast.Constant(value=1), orelse=ast.Constant(value=0)):
                value = self._call(item)
                if isinstance(value, ConstantValue):
                    return ConstantValue()
        return self._size(node)

    def _name(self, node: ast.Name) -> Value:
        if node.id in self._names:
            return self._names[node.id]
        if node.id in self._module.tensors:
            if node.id not in self._globals:  # a constant of the module, which is there before the call and never freed
                self._globals[node.id] = self._machine.held_by_caller(node.id)
            return self._globals[node.id]
        if self._path(node) in ("math.inf", "math.nan", "cmath.nanj"):
            return ConstantValue()
        if self._path(node) or node.id in self._module.names:
            raise self._machine.unsupported(f"{node.id}, which is no value")
        raise self._machine.unsupported(f"the name {node.id}, which is not bound to anything understood")

    def _item(self, sequence: SequenceValue, place: int, node: ast.expr) -> Value:
        places = sequence.places or range(len(sequence.items))
        if place < 0 or place not in places:
            raise self._machine.unsupported(f"{shortened(node)}, which is not known to be there")
        return sequence.items[places.index(place)]

    def _size(self, node: ast.expr) -> ConstantValue:
        """Return a number, or what is computed from numbers. It has no effect, whichever parts of it Python runs."""
        match node:
            case ast.Constant():
                return ConstantValue(node.value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
                return ConstantValue(-number)
            case ast.Name():
                value = self._name(node)
            case ast.Subscript(value=base, slice=ast.Constant(value=int())):
                return self._size(base)
            case ast.Call():
                return self._size_call(node)
            case _ if isinstance(node, _NUMBERS):
                return computed(*[self._size(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)])
            case _:
                raise self._machine.unsupported(shortened(node))
        if not isinstance(value, ConstantValue):
            raise self._machine.unsupported(f"{shortened(node)}, where a number is expected")
        return value

    def _size_call(self, node: ast.Call) -> ConstantValue:
        path = self._path(node.func)
        if not path and isinstance(node.func, ast.Attribute) and node.func.attr in _SIZES:
            self._call(node)
        elif path not in PURE:
            raise self._machine.unsupported(f"{shortened(node)}, where a number is expected")
        return computed(*[self._size(part) for part in (*node.args, *(keyword.value for keyword in node.keywords))])

    def _argument(self, node: ast.expr) -> Value:
        """Return what a kernel or an operator is given."""
        match node:
            case ast.Name() | ast.Call() | ast.Subscript():
                return self._value(node)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return GroupValue(tuple(self._argument(element) for element in elements))
            case ast.Attribute() if is_type(self._path(node)):
                return ConstantValue(shortened(node))
        return self._size(node)

    def _arguments(self, path: str, node: ast.Call) -> Call:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise self._machine.unsupported(f"{shortened(node)}, with unpacked arguments")
        arguments = tuple(self._argument(argument) for argument in node.args)
        keywords = {keyword.arg: self._argument(keyword.value) for keyword in node.keywords if keyword.arg}
        if any(value is NOTHING or isinstance(value, SequenceValue) for value in (*arguments, *keywords.values())):
            raise self._machine.unsupported(f"{shortened(node)}, given a list or what is no value")
        return Call(path, arguments, keywords)

    def _call(self, node: ast.Call) -> Value:
        if path := self._path(node.func):
            value = call_path(self._machine, self._arguments(path, node), taken=self._taken.get(self._target, ()))
            for name, sizes in asserted_sizes(path, node):
                # An assertion holds for every tensor without elements, so it tells nothing of one whose sizes are told.
                if isinstance(tensor := self._names.get(name), TensorValue) and tensor.sizes is None:
                    self._names[name] = replace(tensor, sizes=sizes)
            return value
        match node.func:
            case ast.Name(id=name) if name in self._module.host_kernels:
                call_host_kernel(self._machine, name, self._module.host_kernels[name], self._arguments(name, node))
                return NOTHING
            case ast.Attribute(value=ast.Name(id=name), attr=method) if name in self._module.names:
                return self._call_kernel(name, method, node)
            case ast.Attribute(value=base, attr=method):
                return self._method(self._value(base), self._arguments(method, node), node)
        name = dotted(node.func).partition(".")[0]
        raise self._machine.unsupported(
            f"a call of {shortened(node.func)}: the name {name}, which is not bound to anything understood"
        )

    def _call_kernel(self, name: str, method: str, node: ast.Call) -> Value:
        module = self._module
        if method != "run" or name not in {*module.kernels, *module.multi_kernels}:
            raise self._machine.unsupported(f"{name}.{method}")
        call = self._arguments(method, node)
        choices = module.multi_kernels.get(name, ((name, (slice(None),)),))
        kernels = [(module.kernel(kernel), slices) for kernel, slices in choices]
        scratch = name in module.multi_kernels or kernels[0][0].allocates
        call_kernels(self._machine, name, kernels, call, scratch)
        return NOTHING

    def _method(self, of: Value, call: Call, node: ast.Call) -> Value:
        if isinstance(of, TensorValue):
            return tensor_method(self._machine, of, call)
        if isinstance(of, StreamValue | EventValue):
            return stream_method(self._machine, of, call)
        if isinstance(of, SequenceValue) and call.path == "clear" and not call.values:
            self._machine.heap.clear(of)
            return NOTHING
        if isinstance(of, ConstantValue) and call.path == "__floordiv__":
            return computed(of, *[self._size(argument) for argument in node.args])
        self._machine.refuse_sizes(f"the method {call.path}", of)
        raise self._machine.unsupported(f"the method {call.path} of a {type(of).__name__.removesuffix('Value').lower()}")
