"""Apply the effects that `language` lists to what is known of a function's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from graphstreams.verification.triton.language import Effect, stays_in_registers
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

_ADDRESS_KEYWORDS = ("pointer", "base", "input", "desc", "x", "sem", "scratch_base")
_TYPE_KEYWORDS = ("dtype", "element_ty")


class UnknownEffect(Exception):
    """A use of values whose effect on memory is not known. The message says why."""


@dataclass
class ParameterAccesses:
    """The parameters of a kernel whose memory it reads, and those whose memory it writes."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Arguments:
    """What is known of the arguments of a call. `text` is the first one, if that is a string literal."""

    positional: tuple[KernelValue, ...]
    keywords: Mapping[str, KernelValue] = field(default_factory=dict)
    text: str = ""

    @property
    def values(self) -> tuple[KernelValue, ...]:
        """Return all arguments."""
        return (*self.positional, *self.keywords.values())

    def split(self, index: int, names: tuple[str, ...]) -> tuple[KernelValue, Arguments]:
        """Return the argument at `index` or with one of `names`, and all others. Raises UnknownEffect if there is none."""
        if index < len(self.positional):
            return self.positional[index], Arguments(self.positional[:index] + self.positional[index + 1 :], self.keywords)
        for name in names:
            if name in self.keywords:
                others = {k: v for k, v in self.keywords.items() if k != name}
                return self.keywords[name], Arguments(self.positional, others)
        raise UnknownEffect("lacks an argument")


CallOnNumbers = Callable[[KernelValue], None]  # calls a function with numbers


def apply(effect: Effect, given: Arguments, touched: ParameterAccesses, call: CallOnNumbers) -> KernelValue:
    """Return what a function gives, and add what it touches to `touched`.

    Raises UnknownEffect if the arguments are not what a function of this effect takes.
    """
    if effect in _PLAIN:
        return _PLAIN[effect](given)
    if effect is Effect.FOLD:
        return _fold(given, call)
    if effect is Effect.SEARCH:
        boundaries, given = given.split(1, ("boundaries_ptr",))
        sorter, given = given.split(7, ("sorter_ptr",))
        touched.reads |= _address(boundaries) | _address(sorter)
        return _pure(given)
    where, rest = given.split(0, _ADDRESS_KEYWORDS)
    origins = _address(where)
    if effect is not Effect.WRITE:
        touched.reads |= origins
    if effect is not Effect.READ:
        touched.writes |= origins
    return _fold(rest, call) if effect is Effect.LOOK_BACK else _pure(rest)


def _address(value: KernelValue) -> frozenset[str]:
    if isinstance(value, Pointer | Descriptor):
        return value.origins
    # Triton compiles no kernel that dereferences an argument that is None.
    if value is Kind.NOTHING:
        return frozenset()
    raise UnknownEffect(f"uses {describe(value)} as an address")


def _numbers(*values: KernelValue) -> None:
    for value in values:
        if not is_numeric(value):
            raise UnknownEffect(f"gives {describe(value)} to a function of numbers")


def _pure(given: Arguments, result: Kind = Kind.NUMBER) -> KernelValue:
    _numbers(*given.values)
    return result


def _fold(given: Arguments, call: CallOnNumbers) -> KernelValue:
    if not any(isinstance(value, Function | Helper) for value in given.values):
        raise UnknownEffect("combines numbers by a function that is not known")
    for value in given.values:
        if isinstance(value, Function | Helper):
            call(value)
        else:
            _numbers(value)
    return Kind.NUMBER


def _first(given: Arguments, names: tuple[str, ...]) -> KernelValue:
    """Return the first argument, which may be called one of `names`, if all others are numbers."""
    value, rest = given.split(0, names)
    _numbers(*rest.values)
    return value


def _pointer_type(given: Arguments) -> KernelValue:
    pointee = _first(given, _TYPE_KEYWORDS)
    if pointee is not Kind.NUMBER_TYPE:
        raise UnknownEffect(f"makes a type of pointers to {describe(pointee)}")
    return Kind.POINTER_TYPE


def _cast(given: Arguments) -> KernelValue:
    value, rest = given.split(0, _ADDRESS_KEYWORDS)
    target = _first(rest, _TYPE_KEYWORDS)
    if Kind.NOTHING in (value, target):
        return Kind.NOTHING
    if target is Kind.POINTER_TYPE and isinstance(value, Pointer):
        return value
    if target is Kind.POINTER_TYPE:
        raise UnknownEffect("makes a pointer of a number")
    if target is not Kind.NUMBER_TYPE:
        raise UnknownEffect(f"may make a pointer of a number, for its type is {describe(target)}")
    if isinstance(value, Pointer) or is_numeric(value):
        return Kind.NUMBER
    raise UnknownEffect(f"converts {describe(value)}")


def _pass(given: Arguments) -> KernelValue:
    value = _first(given, _ADDRESS_KEYWORDS)
    if isinstance(value, Pointer):
        return Pointer(value.origins)
    return value if value is Kind.NOTHING else _pure(Arguments((value,)))


def _merge(given: Arguments) -> KernelValue:
    blocks = [v for v in given.values if isinstance(v, Pointer)]
    if not blocks:
        return _pure(given)
    result = join(blocks[0], *given.positional)
    if not isinstance(result, Pointer):
        raise UnknownEffect("joins an address with something else")
    _numbers(*given.keywords.values())
    return Pointer(result.origins)


def _select(given: Arguments) -> KernelValue:
    condition, rest = given.split(0, ("condition",))
    _numbers(condition)
    return _merge(Arguments(rest.values))  # both choices may be given by name


def add(one: KernelValue, other: KernelValue, subtracted: bool = False) -> KernelValue:
    """Return the sum or difference of two values. Raises UnknownEffect for a sum of addresses."""
    if Kind.NOTHING in (one, other):
        return Kind.NOTHING
    if isinstance(one, Pointer) and isinstance(other, Pointer) and subtracted:
        return Kind.NUMBER
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not subtracted:
        return Sequence((*one.items, *other.items))
    pointers = [v for v in (one, other) if isinstance(v, Pointer)]
    numbers = [v for v in (one, other) if v is Kind.NUMBER]
    if len(pointers) == 1 and len(numbers) == 1 and not (subtracted and pointers[0] is other):
        return Pointer(pointers[0].origins)
    _numbers(one, other)
    return Kind.NUMBER


def _add(given: Arguments) -> KernelValue:
    one, rest = given.split(0, ("x",))
    return add(one, _first(rest, ("y",)))


def _assembly(given: Arguments) -> KernelValue:
    if not stays_in_registers(given.text):
        raise UnknownEffect("runs assembly that may touch memory")
    return _pure(given)


# Effects other than those on memory, and on functions among the arguments.
_PLAIN: dict[Effect, Callable[[Arguments], KernelValue]] = {
    Effect.PURE: _pure,
    Effect.INERT: lambda given: Kind.NUMBER,
    Effect.IDENTITY: lambda given: _first(given, ("value", "x")),
    Effect.NUMBER_TYPE: lambda given: _pure(given, Kind.NUMBER_TYPE),
    Effect.POINTER_TYPE: _pointer_type,
    Effect.CAST: _cast,
    Effect.PASS: _pass,
    Effect.MERGE: _merge,
    Effect.SELECT: _select,
    Effect.EACH: lambda given: Sequence(tuple(_pass(Arguments((value,))) for value in given.values)),
    Effect.ADD: _add,
    Effect.DESCRIBE: lambda given: Descriptor(_address(_first(given, _ADDRESS_KEYWORDS))),
    Effect.ASSEMBLY: _assembly,
}
