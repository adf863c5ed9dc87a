"""Values of expressions in a wrapper's function: names, calls, sizes."""

from __future__ import annotations

import ast

from graphstreams.verification.call import Call
from graphstreams.verification.calls import call_method, call_path
from graphstreams.verification.kernel_calls import call_kernel
from graphstreams.verification.machine import Machine
from graphstreams.verification.module import Module, shortened
from graphstreams.verification.values import Bundle, Constant, Method, Named, Path, Storage, Tensor, Value

_SIMPLE = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.JoinedStr, ast.FormattedValue)


class Expressions:
    """Evaluates expressions over the names of the function that is being read."""

    def __init__(self, module: Module, machine: Machine) -> None:
        self._module = module
        self._machine = machine
        self._names: dict[str, Value] = {}
        self._globals: dict[str, Tensor] = {}

    def _run(self, function: ast.FunctionDef, arguments: list[Value]) -> Value:
        """The result of a function of the wrapper, its statements read."""
        raise NotImplementedError

    def _constant(self, node: ast.expr) -> None:
        """An expression that computes with sizes and flags only."""
        value = self._value(node)
        if not isinstance(value, Constant):
            raise self._machine.refuse(f"{shortened(node)}, where a number is expected")

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=value):
                return Constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=base, attr=name):
                return self._attribute(self._value(base), name)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return self._machine.heap.bundle([self._value(element) for element in elements])
            case ast.Subscript(value=base, slice=index):
                return self._item(self._value(base), index, node)
            case ast.Call():
                return self._call(node)
            case _ if isinstance(node, _SIMPLE):
                return self._arithmetic(node)
        raise self._machine.refuse(shortened(node))

    def _arithmetic(self, node: ast.expr) -> Value:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._constant(child)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return Constant(ast.literal_eval(node))
        return Constant()

    def _name(self, name: str) -> Value:
        if name in self._names:
            return self._names[name]
        if name == "self":
            return Path("self")
        if name in self._module.tensors:
            return self._global(name)
        value = self._module.lookup(name)
        if value is None:
            raise self._machine.refuse(f"the name {name}, which is not bound to anything understood")
        return value

    def _global(self, name: str) -> Tensor:
        """A constant of the module: there before the call, and never freed."""
        if name not in self._globals:
            storage: Storage = self._machine.heap.storage(name)
            self._globals[name] = Tensor((storage,))
            self._machine.heap.hold(self._globals[name])
            self._machine.inputs.append(storage)
        return self._globals[name]

    def _attribute(self, base: Value, name: str) -> Value:
        if isinstance(base, Path):
            return Path(f"{base.path}.{name}")
        return Method(base, name)

    def _item(self, base: Value, index: ast.expr, node: ast.expr) -> Value:
        position = index.value if isinstance(index, ast.Constant) else None
        if isinstance(base, Bundle) and isinstance(position, int) and -len(base.items) <= position < len(base.items):
            return base.items[position]
        if base == Path("self.partitions") and isinstance(position, int) and position < len(self._module.partitions):
            return Named(self._module.partitions[position])
        if isinstance(base, Tensor | Constant):
            self._constant(index)
            return base if isinstance(base, Tensor) else Constant()
        raise self._machine.refuse(shortened(node))

    def _call(self, node: ast.Call) -> Value:
        callee = self._value(node.func)
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise self._machine.refuse(f"{shortened(node)}, with unpacked arguments")
        arguments = tuple(self._argument(argument) for argument in node.args)
        keywords = {keyword.arg: self._argument(keyword.value) for keyword in node.keywords if keyword.arg}
        if isinstance(callee, Path):
            return call_path(self._machine, Call(callee.path, arguments, keywords))
        if isinstance(callee, Named):
            return self._call_function(callee.name, arguments, keywords)
        if isinstance(callee, Method) and isinstance(callee.of, Named) and callee.of.name in self._module.kernels:
            return self._call_kernel(callee, Call(callee.name, arguments, keywords))
        if isinstance(callee, Method):
            return call_method(self._machine, callee.of, Call(callee.name, arguments, keywords))
        raise self._machine.refuse(f"a call of {shortened(node.func)}")

    def _call_kernel(self, callee: Method, call: Call) -> Value:
        assert isinstance(callee.of, Named)
        if callee.name != "run":
            raise self._machine.refuse(f"{callee.of.name}.{callee.name}")
        call_kernel(self._machine, self._module.kernel(callee.of.name), call)
        return Constant()

    def _argument(self, node: ast.expr) -> Value:
        """Paths and attributes among arguments are dtypes, layouts and the like."""
        value = self._value(node)
        return Constant(shortened(node)) if isinstance(value, Path | Method | Named) else value

    def _call_function(self, name: str, arguments: tuple[Value, ...], keywords: dict[str, Value]) -> Value:
        function = self._module.functions.get(name)
        if function is None or keywords:
            raise self._machine.refuse(f"a call of {name}")
        return self._run(function, list(arguments))
