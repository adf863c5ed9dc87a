"""Interpret the expressions of a Triton kernel: what each gives, and which memory the functions that it calls touch."""

from __future__ import annotations

import ast

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import full_path, shortened
from graphstreams.verification.triton import language
from graphstreams.verification.triton.functions import Arguments, ParameterAccesses, UnknownEffect, add, apply
from graphstreams.verification.triton.language import LANGUAGE, Effect, canonical, effect_of
from graphstreams.verification.triton.source import KernelSource
from graphstreams.verification.triton.values import (
    Descriptor,
    Function,
    Helper,
    KernelValue,
    Kind,
    Pointer,
    Sequence,
    describe,
    is_numeric,
    join,
)

Names = dict[str, KernelValue]

_STEPS = 200_000  # a kernel that Inductor generates takes a few thousand
_RANGES = ("builtins.range", "triton.language.range", "triton.language.static_range")
_COMPILED = ("triton.jit", "triton.runtime.jit.jit", "triton.constexpr_function", "triton.runtime.jit.constexpr_function")
_SIZES = ("shape", "numel", "strides", "block_shape", "rank", "ndim")
_NUMBERS_OF_TYPES = ("primitive_bitwidth", "itemsize", "name", "numel", "shape")
# Effects that methods of a tensor may have.
_METHOD_EFFECTS = (
    Effect.PURE, Effect.CAST, Effect.PASS, Effect.READ, Effect.WRITE, Effect.UPDATE, Effect.FOLD, Effect.ADD,
)  # fmt: skip
_DESCRIPTOR_EFFECTS = {
    "load": Effect.READ, "gather": Effect.READ, "store": Effect.WRITE, "scatter": Effect.WRITE,
    **{f"atomic_{name}": Effect.UPDATE for name in ("add", "and", "max", "min", "or", "xor")},
}  # fmt: skip


class KernelExpressions:
    """The expressions of one kernel. `touched` collects what the functions that they call touch."""

    def __init__(self, source: KernelSource, name: str, line: int, generated: bool) -> None:
        self.touched = ParameterAccesses()
        self._source, self._name, self._line, self._generated = source, name, line, generated
        self._steps = 0

    def follow(self, definition: ast.FunctionDef, names: Names) -> KernelValue:
        """Return what a function of the source gives if its parameters are `names`."""
        raise NotImplementedError

    def unsupported(self, node: ast.AST, why: str, what: str = "") -> UnreadableWrapper:
        """Return the error for a construct. Its message has `what`, by default the source of `node`."""
        return UnreadableWrapper(self._line, f"Triton kernel {self._name} {why}: {what or shortened(node, 100)}")

    def step(self, node: ast.AST) -> None:
        """Count a step of the interpretation. Raises UnreadableWrapper if there are too many."""
        self._steps += 1
        if self._steps > _STEPS:
            raise self.unsupported(node, "takes too long to read")

    def outside(self, name: str) -> KernelValue | None:
        """Return what a name stands for if the function does not bind it."""
        found = self._source.find(name)
        if isinstance(found, ast.expr):
            return self.value(found, {})
        return _imported(found.path) if isinstance(found, Function) else found

    def value(self, node: ast.expr, names: Names) -> KernelValue:
        """Return what is known of an expression's value."""
        self.step(node)
        match node:
            case ast.Constant(value=value):
                return Kind.NOTHING if value is None else Kind.NUMBER
            case ast.Name(id=name):
                return self._name_value(node, name, names)
            case ast.Attribute(value=owner, attr=attribute):
                return self._attribute(node, self.value(owner, names), attribute)
            case ast.Call():
                return self._call(node, names)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, self.value(left, names), op, self.value(right, names))
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return Sequence(tuple(self.value(item, names) for item in items))
            case ast.Subscript(value=owner, slice=index):
                return self._subscript(node, self.value(owner, names), index, names)
        return self._choice(node, names)

    def _choice(self, node: ast.expr, names: Names) -> KernelValue:
        match node:
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                names[name] = self.value(value, names)
                return names[name]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.value(test, names)
                return join(self._perhaps(body, names), self._perhaps(orelse, names))
            case ast.BoolOp(values=values):
                return join(self.value(values[0], names), *[self._perhaps(value, names) for value in values[1:]])
            case ast.Compare(left=left, comparators=others):
                for operand in (left, *others):
                    self.value(operand, names)
                return Kind.NUMBER
            case ast.UnaryOp(op=op, operand=operand):
                given = self.value(operand, names)
                return Kind.NUMBER if isinstance(op, ast.Not) else self._number(node, given)
            case ast.JoinedStr(values=parts):
                for part in parts:
                    self.value(part.value if isinstance(part, ast.FormattedValue) else part, names)
                return Kind.NUMBER
        raise self.unsupported(node, "has an expression that is not known")

    def _perhaps(self, node: ast.expr, names: Names) -> KernelValue:
        """Return what is known of the value of an expression that may not be evaluated, and so may not bind its names."""
        other = dict(names)
        value = self.value(node, other)
        self.merge(names, other)
        return value

    def merge(self, names: Names, other: Names) -> None:
        """Make `names` what they are after the path that led to them or the path that led to `other`."""
        for name in names.keys() | other.keys():
            values = [path[name] if name in path else self.outside(name) for path in (names, other)]
            names[name] = join(*(value for value in values if value is not None))

    def _number(self, node: ast.AST, value: KernelValue) -> KernelValue:
        if value is Kind.NOTHING:
            return value
        if not is_numeric(value):
            raise self.unsupported(node, f"computes with {describe(value)}")
        return Kind.NUMBER

    def _name_value(self, node: ast.expr, name: str, names: Names) -> KernelValue:
        value = names[name] if name in names else self.outside(name)
        if value is None and self._generated:
            return Kind.NOTHING  # a template's name in a branch that Triton does not compile
        if value is None:
            raise self.unsupported(node, "has a name that its source does not define")
        return value

    def _binary(self, node: ast.AST, left: KernelValue, op: ast.operator, right: KernelValue) -> KernelValue:
        if isinstance(op, ast.Add | ast.Sub):
            try:
                return add(left, right, isinstance(op, ast.Sub))
            except UnknownEffect as error:
                raise self.unsupported(node, str(error)) from None
        self._number(node, left)
        return self._number(node, right)

    def _subscript(self, node: ast.expr, owner: KernelValue, index: ast.expr, names: Names) -> KernelValue:
        for part in ast.walk(index):
            if isinstance(part, ast.expr) and not isinstance(part, ast.Slice | ast.Tuple):
                self._number(node, self.value(part, names))
        if isinstance(owner, Pointer):
            return Pointer(owner.origins)
        if isinstance(owner, Sequence) and not is_numeric(owner):
            return self._item(node, owner, index)
        return self._number(node, owner)

    def _item(self, node: ast.expr, owner: Sequence, index: ast.expr) -> KernelValue:
        try:
            position = ast.literal_eval(index)
            return owner.items[position] if isinstance(position, int) else Sequence(owner.items[position])
        except (ValueError, IndexError, TypeError):
            pass
        if isinstance(index, ast.Slice) or not owner.items:
            raise self.unsupported(node, "takes a part of a tuple")
        return join(*owner.items)

    def _attribute(self, node: ast.expr, owner: KernelValue, attribute: str) -> KernelValue:
        if isinstance(owner, Function):
            return _imported(f"{owner.path}.{attribute}")
        if owner is Kind.NOTHING:
            return owner
        if attribute in _SIZES and (isinstance(owner, Pointer | Descriptor) or owner is Kind.NUMBER):
            return Kind.NUMBER
        if attribute == "T" and isinstance(owner, Pointer | Kind):
            return Pointer(owner.origins) if isinstance(owner, Pointer) else self._number(node, owner)
        described = _type_attribute(owner, attribute)
        if described is None:
            raise self.unsupported(node, f"takes an attribute of {describe(owner)} that is not known")
        return described

    # --- calls

    def check_range(self, call: ast.Call, names: Names) -> None:
        """Raise UnreadableWrapper unless a loop runs over a range of numbers."""
        function = self.value(call.func, names)
        if not isinstance(function, Function) or function.path not in _RANGES:
            raise self.unsupported(call, "runs over something that is not a range")

    def _call(self, node: ast.Call, names: Names) -> KernelValue:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise self.unsupported(node, "unpacks arguments")
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value, names)
            if not isinstance(owner, Function):
                return self._method(node, owner, node.func.attr, self._arguments(node, names))
        return self._run(node, self.value(node.func, names), self._arguments(node, names))

    def _arguments(self, node: ast.Call, names: Names) -> Arguments:
        positional = tuple(self.value(a, names) for a in node.args)
        keywords = {str(k.arg): self.value(k.value, names) for k in node.keywords}
        match node.args:
            case [ast.Constant(value=str(text)), *_]:
                return Arguments(positional, keywords, text)
        return Arguments(positional, keywords)

    def _method(self, node: ast.Call, owner: KernelValue, name: str, given: Arguments) -> KernelValue:
        if owner is Kind.NOTHING:
            return owner
        path = LANGUAGE + name
        effect = _DESCRIPTOR_EFFECTS.get(name) if isinstance(owner, Descriptor) else effect_of(path, self._generated)
        effect = effect if effect in _METHOD_EFFECTS else None
        if name.startswith("is_") and owner in (Kind.NUMBER_TYPE, Kind.POINTER_TYPE) and not given.values:
            return Kind.NUMBER
        given = Arguments((owner, *given.positional), given.keywords)
        return self._apply(node, effect, given, path)

    def _run(self, node: ast.Call, function: KernelValue, given: Arguments) -> KernelValue:
        if isinstance(function, Helper):
            return self.follow(function.definition, self._bind(node, function.definition, given))
        if not isinstance(function, Function):
            raise self.unsupported(node, f"calls {describe(function)}")
        return self._apply(node, effect_of(function.path, self._generated), given, function.path)

    def _apply(self, node: ast.Call, effect: Effect | None, given: Arguments, path: str) -> KernelValue:
        if effect is None:
            raise self.unsupported(node, "calls a function that is not known")
        position = language.TYPE_POSITIONS.get(path.removeprefix(LANGUAGE), len(given.positional))
        types = [given.keywords.get(name, Kind.NOTHING) for name in ("dtype", "out_dtype")]
        for kind in (*types, *given.positional[position : position + 1]) if effect is not Effect.CAST else ():
            if kind not in (Kind.NUMBER_TYPE, Kind.NOTHING):
                raise self.unsupported(node, f"takes {describe(kind)} for the type of a number")
        try:
            return apply(effect, given, self.touched, lambda function: self._fold(node, function))
        except UnknownEffect as error:
            raise self.unsupported(node, str(error)) from None

    def _fold(self, node: ast.Call, function: KernelValue) -> None:
        """Run a function on numbers alone."""
        if isinstance(function, Helper):
            given = Arguments((Kind.NUMBER,) * len(_positional(function.definition.args)))
            if not is_numeric(self._run(node, function, given)):
                raise self.unsupported(node, "combines numbers by a function that gives no number")
        elif not isinstance(function, Function) or effect_of(function.path, self._generated) is not Effect.PURE:
            raise self.unsupported(node, "calls a function that is not known")

    def _bind(self, node: ast.Call, definition: ast.FunctionDef, given: Arguments) -> Names:
        if not definition.decorator_list or not all(self._compiles(d) for d in definition.decorator_list):
            raise self.unsupported(node, "calls a function that is not plainly one of Triton's")
        arguments = definition.args
        if arguments.vararg or arguments.kwarg:
            raise self.unsupported(node, "calls a function with any number of arguments")
        positional, defaults = _positional(arguments), _defaults(arguments)
        names: Names = {name: Kind.MIXED if default is None else self.value(default, {}) for name, default in defaults}
        by_place = dict(zip(positional, given.positional, strict=False))
        unknown = len(given.positional) > len(positional) or not given.keywords.keys() <= names.keys()
        names.update({**by_place, **given.keywords})
        lacking = Kind.MIXED in (names[name] for name, default in defaults if default is None)
        if unknown or lacking or by_place.keys() & given.keywords.keys():
            raise self.unsupported(node, "calls a function with arguments that do not fit it")
        return names

    def _compiles(self, decorator: ast.expr) -> bool:
        """Return whether a decorator makes a function one of Triton's and does nothing else."""
        if isinstance(decorator, ast.Call) and not decorator.args:
            decorator = decorator.func
        return full_path(decorator, self._source.paths) in _COMPILED


def _positional(arguments: ast.arguments) -> list[str]:
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args)]


def _defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr | None]]:
    """Return every parameter with its default, None if it has none."""
    positional = _positional(arguments)
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    named = zip((a.arg for a in arguments.kwonlyargs), arguments.kw_defaults, strict=True)
    return [*zip(positional, [*missing, *arguments.defaults], strict=True), *named]


def _imported(path: str) -> KernelValue:
    path = canonical(path)
    if language.NUMBER_TYPES.fullmatch(path):
        return Kind.NUMBER_TYPE
    return Kind.NUMBER if language.NUMBERS.fullmatch(path) else Function(path)


def _type_attribute(owner: KernelValue, attribute: str) -> KernelValue | None:
    """Return what `dtype`, `type` or an attribute of a type gives. The type of a block of pointers has pointers as elements."""
    match attribute, owner:
        case ("dtype", Pointer()) | ("type", Pointer(scalar=True)):
            return Kind.POINTER_TYPE
        case "type", Pointer():
            return Kind.MIXED
        case ("dtype" | "type", Kind.NUMBER) | ("dtype" | "block_type", Descriptor()):
            return Kind.NUMBER_TYPE
        case "element_ty", Kind.NUMBER_TYPE | Kind.POINTER_TYPE:
            return Kind.NUMBER_TYPE
        case ("value" | "scalar", Kind.NUMBER_TYPE | Kind.POINTER_TYPE) | ("value", Kind.NUMBER):  # `value` is of a constant
            return owner
        case _, Kind.NUMBER_TYPE | Kind.POINTER_TYPE if attribute in _NUMBERS_OF_TYPES:
            return Kind.NUMBER
    return None
