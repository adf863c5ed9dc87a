"""What the analysis of a Triton kernel knows of a value: whether it is an address, and into which parameters' memory.

Triton types every value statically, and only a value of a pointer's type can be dereferenced. So a number is harmless unless
something turns it into a pointer, which takes a pointer's type.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """A value that needs no further description."""

    NUMBER = "a number"  # scalars, tensors, sizes, strings, booleans
    NUMBER_TYPE = "a number's type"
    POINTER_TYPE = "a pointer's type"  # the pointee is a number
    NOTHING = "None"
    MIXED = "one thing or another"  # depends on the path that the kernel takes


@dataclass(frozen=True)
class Pointer:
    """An address, or a block of them, in the memory of the parameters `origins`."""

    origins: frozenset[str]
    scalar: bool = False  # certainly one address, not a block of them


@dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor over the memory of the parameters `origins`."""

    origins: frozenset[str]


@dataclass(frozen=True)
class Function:
    """A function or a module that an import names, by its full path."""

    path: str


@dataclass(frozen=True)
class Helper:
    """A function that the kernel's source defines."""

    definition: ast.FunctionDef


@dataclass(frozen=True)
class Sequence:
    """A tuple or list."""

    items: tuple[KernelValue, ...]


KernelValue = Kind | Pointer | Descriptor | Function | Helper | Sequence


def join(*values: KernelValue) -> KernelValue:
    """Return what is known of a value that is one of several."""
    return functools.reduce(_join, values)


def _join(one: KernelValue, other: KernelValue) -> KernelValue:
    if one == other or other is Kind.NOTHING:
        return one
    if one is Kind.NOTHING:
        return other
    match one, other:
        case Pointer(), Pointer():
            return Pointer(one.origins | other.origins, one.scalar and other.scalar)
        case Descriptor(), Descriptor():
            return Descriptor(one.origins | other.origins)
        case Sequence(), Sequence() if len(one.items) == len(other.items):
            return Sequence(tuple(join(a, b) for a, b in zip(one.items, other.items, strict=True)))
        case ((Sequence() | Kind.NUMBER), (Sequence() | Kind.NUMBER)) if is_numeric(one) and is_numeric(other):
            return Kind.NUMBER
    return Kind.MIXED


def is_numeric(value: KernelValue) -> bool:
    """Return whether a value holds nothing but numbers and types of numbers."""
    if isinstance(value, Sequence):
        return all(is_numeric(item) for item in value.items)
    return value in (Kind.NUMBER, Kind.NUMBER_TYPE, Kind.NOTHING)


def describe(value: KernelValue) -> str:
    """Return a value in the words of a message."""
    match value:
        case Kind():
            return value.value
        case Pointer() | Descriptor():
            return f"an address in {', '.join(sorted(value.origins))}"
        case Function():
            return value.path
        case Helper():
            return f"the function {value.definition.name}"
    return "a tuple"
