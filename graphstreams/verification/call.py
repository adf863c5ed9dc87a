"""A call in a wrapper, with what every table of functions needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphstreams.verification.machine import Machine
from graphstreams.verification.values import Bundle, Constant, Event, Path, RawStream, Size, Stream, Value, storages_of

GUARD = Constant("device guard")


@dataclass(frozen=True)
class Call:
    """A call with its arguments evaluated."""

    path: str
    arguments: tuple[Value, ...]
    keywords: Mapping[str, Value]

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.arguments, *self.keywords.values())

    def constant(self, index: int) -> object:
        """The value of an argument that the source spells out, else None."""
        argument = self.arguments[index] if index < len(self.arguments) else None
        return argument.value if isinstance(argument, Constant) else None


def sizes_in(*values: Value) -> Iterator[str]:
    """The names of inputs that were taken for sizes, through lists."""
    for value in values:
        if isinstance(value, Bundle):
            yield from sizes_in(*value.items)
        elif isinstance(value, Size):
            yield value.name


def refuse_sizes(machine: Machine, what: str, *values: Value) -> None:
    """Raise where an input that was taken for a size stands where a tensor is expected."""
    for name in sizes_in(*values):
        raise machine.refuse(f"{what} takes {name} for a tensor, an input whose name is one of a size")


def describe(value: Value) -> str:
    """A value in the words of a message."""
    return value.path if isinstance(value, Path) else f"a {type(value).__name__.lower()}"


def all_constant(call: Call) -> bool:
    """Whether no argument is a tensor, a stream or an event."""
    return not any(True for _ in storages_of(*call.values)) and not any(
        isinstance(value, Stream | Event | RawStream) for value in call.values
    )


def refuse_tensors(machine: Machine, call: Call) -> None:
    """Raise unless all arguments are constants."""
    if not all_constant(call):
        raise machine.refuse(f"{call.path} with tensors or streams among its arguments")
