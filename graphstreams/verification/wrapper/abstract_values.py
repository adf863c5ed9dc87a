"""What names of a wrapper stand for, and which storages their references keep alive.

Python frees a tensor when its last reference goes, so references are counted as CPython counts them: a name and an item
of a list hold one each. Where the source leaves open whether a tensor is another one or a copy of it, a reference counts
as one that may be: without a certain one the memory may go back, and only without either is it gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class Storage:
    """Memory of one allocation. `names` are those that have owned it, first to last."""

    key: str  # unique within a trace
    names: dict[str, None] = field(default_factory=dict)
    on_host: bool = False
    on_device: bool = False  # neither, where the source does not tell
    used: bool = False  # as a tensor's
    late: bool = False  # a copy that the host did not wait for may still be on its way into it
    count: int = 0
    maybe: int = 0  # references that there may be
    loose: bool = False  # it may have gone back
    ended: bool = False


@dataclass(frozen=True)
class Tensor:
    """A tensor over one of `storages`; `maybe` are those that it holds only if it was not copied."""

    storages: tuple[Storage, ...]
    maybe: tuple[Storage, ...] = ()

    @property
    def all(self) -> tuple[Storage, ...]:
        return self.storages + self.maybe


@dataclass(eq=False)
class SequenceValue:
    """A tuple or a list. Of one whose length is not known `items` are those that the source takes, then the rest."""

    items: list[Value]
    places: tuple[int, ...] | None = None  # of the items, where the length is not known; -1 is the rest
    count: int = 0
    named: bool = False  # a name was bound to it


@dataclass(frozen=True)
class Group:
    """A tuple or a list that the source spells out as an argument."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class Constant:
    """A number, a flag, a type: anything without memory of a tensor. `value` where the source spells it out."""

    value: object = None
    name: str = ""  # of an input that its name or its use makes a size


@dataclass(frozen=True)
class Nothing:
    """What a call gives that is a statement of its own: no name may be bound to it."""


@dataclass(frozen=True)
class Stream:
    number: int


@dataclass(frozen=True)
class RawStream:
    """A stream's handle, as kernels take it."""

    number: int


@dataclass(frozen=True)
class Event:
    name: str


@dataclass(frozen=True)
class Context:
    """What a `with` enters that is no stream."""


Value = Tensor | SequenceValue | Group | Constant | Nothing | Stream | RawStream | Event | Context
NOTHING = Nothing()
CONTEXT = Context()


@dataclass(frozen=True)
class Call:
    """A call of an imported function or of a method, with its arguments read."""

    path: str
    arguments: tuple[Value, ...] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.arguments, *self.keywords.values())

    def constant(self, index: int) -> object:
        """The value of an argument that the source spells out, else None."""
        argument = self.arguments[index] if index < len(self.arguments) else None
        return argument.value if isinstance(argument, Constant) else None


class Heap:
    """References to storages and lists; `on_free` gets a storage that loses its last, and whether that is certain."""

    def __init__(self, on_free: Callable[[Storage, bool], None]) -> None:
        self._on_free = on_free
        self._fresh: list[Storage | SequenceValue] = []
        self.storages: list[Storage] = []

    def storage(self, *names: str, on_host: bool = False) -> Storage:
        """A new storage. It is freed at the next `collect` unless something holds it by then."""
        storage = Storage(f"#{len(self.storages)}", dict.fromkeys(names), on_host)
        self.storages.append(storage)
        self._fresh.append(storage)
        return storage

    def bundle(self, items: list[Value], places: tuple[int, ...] | None = None) -> SequenceValue:
        bundle = SequenceValue(items, places)
        for item in items:
            self.hold(item)
        self._fresh.append(bundle)
        return bundle

    def hold(self, value: Value) -> None:
        self._count(value, 1)

    def drop(self, value: Value) -> None:
        for counted in self._count(value, -1):
            self._settle(counted)

    def lend(self, value: Value) -> None:
        """Drop a reference without ending the value: the statement that gets it may hold it."""
        self._fresh.extend(self._count(value, -1))

    def nest(self, fresh: list[Storage | SequenceValue]) -> list[Storage | SequenceValue]:
        """Put `fresh` in the place of what the running statement made; a function that is called has statements too."""
        outer, self._fresh = self._fresh, fresh
        return outer

    def clear(self, bundle: SequenceValue) -> None:
        items, bundle.items = bundle.items, []
        for item in items:
            self.drop(item)

    def collect(self) -> None:
        """Free what the last statement made and nothing holds."""
        fresh, self._fresh = self._fresh, []
        for counted in reversed(fresh):  # a list before what it holds
            self._settle(counted)

    def _count(self, value: Value, change: int) -> list[Storage | SequenceValue]:
        if isinstance(value, SequenceValue):
            value.count += change
            return [value]
        if not isinstance(value, Tensor):
            return []
        for storage in value.storages:
            storage.count += change
        for storage in value.maybe:
            storage.maybe += change
        return list(value.all)

    def _settle(self, counted: Storage | SequenceValue) -> None:
        if counted.count > 0:
            return
        if isinstance(counted, SequenceValue):
            self.clear(counted)
        elif not counted.maybe and not counted.ended:
            counted.ended = True
            self._on_free(counted, True)
        elif counted.maybe and not counted.loose:
            counted.loose = True
            self._on_free(counted, False)


def storages_of(*values: Value) -> Iterator[Storage]:
    """Every storage in the values, through lists."""
    for value in values:
        if isinstance(value, SequenceValue | Group):
            yield from storages_of(*value.items)
        elif isinstance(value, Tensor):
            yield from value.all
