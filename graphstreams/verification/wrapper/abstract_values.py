"""What the names of a wrapper stand for, and which storages their references keep alive.

Python frees a tensor when its last reference goes, so references are counted as CPython counts them: a name holds one, and an
item of a list holds one. If the source leaves open whether a tensor is another tensor or a copy of it, its reference to the
other one's storage is a possible one. Without a certain reference the memory may go back to its pool; without a possible one
either it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from graphstreams.verification.elements import Elements

MOST_COPIES = 64  # storages that a tensor may be over: Inductor realigns once for each stream, from the original


@dataclass(eq=False)
class Storage:
    """Memory of one allocation. `names` are those that have owned it, first to last."""

    key: str  # unique within a trace
    names: dict[str, None] = field(default_factory=dict)
    on_host: bool = False
    on_device: bool = False  # neither of the two if the source does not tell
    used: bool = False  # as a tensor's
    is_object: bool = False  # an input that is a Python object, and no memory
    copy_pending: bool = False  # a copy that the host did not wait for may still be on its way into it
    count: int = 0  # certain references
    possible: int = 0  # possible references
    may_be_free: bool = False
    whole: Elements | None = None  # all that was allocated, if the source tells
    resized: bool = False  # an operator may have given a tensor over it other sizes
    ended: bool = False  # freed, or taken for a size


@dataclass(frozen=True)
class TensorValue:
    """A tensor over one of `storages`. It holds those in `maybe` only if it is no copy.

    `sizes` and `elements` are what the source tells of them, if it does; None says that they are not known.
    """

    storages: tuple[Storage, ...]
    maybe: tuple[Storage, ...] = ()
    sizes: tuple[int | None, ...] | None = None
    elements: Elements | None = None  # of its storage

    @property
    def all(self) -> tuple[Storage, ...]:
        """Return the storages that it holds, certainly or not."""
        return self.storages + self.maybe

    @property
    def any_view(self) -> TensorValue:
        """Return a view of it of which nothing but the memory is known."""
        return replace(self, sizes=None, elements=None)


@dataclass(eq=False)
class SequenceValue:
    """A tuple or a list. If its length is not known, `items` are those that the source takes, then the rest as one."""

    items: list[Value]
    places: tuple[int, ...] | None = None  # the numbers of the items if the length is not known; -1 is the rest
    count: int = 0  # references
    named: bool = False  # a name was bound to it


@dataclass(frozen=True)
class GroupValue:
    """A tuple or a list that the source spells out as an argument."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class ConstantValue:
    """A number, a flag, a type: anything without a tensor's memory. `value` is what the source spells out."""

    value: object = None
    name: str = ""  # of an input that is taken for a size, if this is that input or is computed from it


@dataclass(frozen=True)
class NothingValue:
    """What a call gives that is a statement of its own. No name may be bound to it."""


@dataclass(frozen=True)
class StreamValue:
    """A stream, by its number in the trace."""

    number: int


@dataclass(frozen=True)
class RawStreamValue:
    """A stream's handle, as kernels take it."""

    number: int


@dataclass(frozen=True)
class EventValue:
    """An event, by its name in the trace."""

    name: str


@dataclass(frozen=True)
class ContextValue:
    """What a `with` enters that is no stream."""


AnyStreamValue = StreamValue | RawStreamValue | EventValue
Value = TensorValue | SequenceValue | GroupValue | ConstantValue | NothingValue | ContextValue | AnyStreamValue
NOTHING = NothingValue()
CONTEXT = ContextValue()


@dataclass(frozen=True)
class Call:
    """A call of an imported function or of a method, with its arguments read."""

    path: str
    arguments: tuple[Value, ...] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        """Return all arguments."""
        return (*self.arguments, *self.keywords.values())

    def constant(self, index: int) -> object:
        """Return the value of a positional argument that the source spells out, else None."""
        argument = self.arguments[index] if index < len(self.arguments) else None
        return argument.value if isinstance(argument, ConstantValue) else None


class Heap:
    """References to storages and sequences. `on_free` gets a storage that loses its last, and whether that is certain."""

    def __init__(self, on_free: Callable[[Storage, bool], None]) -> None:
        self._on_free = on_free
        self._fresh: list[Storage | SequenceValue] = []
        self.storages: list[Storage] = []

    def storage(self, *names: str, on_host: bool = False) -> Storage:
        """Return a new storage. The next `collect` frees it unless something holds it by then."""
        storage = Storage(f"#{len(self.storages)}", dict.fromkeys(names), on_host)
        self.storages.append(storage)
        self._fresh.append(storage)
        return storage

    def sequence(self, items: list[Value], places: tuple[int, ...] | None = None) -> SequenceValue:
        """Return a new sequence that holds its items. The next `collect` ends it unless something holds it by then."""
        sequence = SequenceValue(items, places)
        for item in items:
            self.hold(item)
        self._fresh.append(sequence)
        return sequence

    def hold(self, value: Value) -> None:
        """Add a reference."""
        self._count(value, 1)

    def drop(self, value: Value) -> None:
        """Remove a reference, and free what nothing holds any more."""
        for counted in self._count(value, -1):
            self._settle(counted)

    def lend(self, value: Value) -> None:
        """Remove a reference without ending the value, because the running statement may hold it again."""
        self._fresh.extend(self._count(value, -1))

    def clear(self, sequence: SequenceValue) -> None:
        """Drop the items of a sequence."""
        items, sequence.items = sequence.items, []
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
        if not isinstance(value, TensorValue):
            return []
        for storage in value.storages:
            storage.count += change
        for storage in value.maybe:
            storage.possible += change
        return list(value.all)

    def _settle(self, counted: Storage | SequenceValue) -> None:
        if counted.count > 0:
            return
        if isinstance(counted, SequenceValue):
            self.clear(counted)
        elif not counted.possible and not counted.ended:
            counted.ended = True
            self._on_free(counted, True)
        elif counted.possible and not counted.may_be_free:
            counted.may_be_free = True
            self._on_free(counted, False)


def tensors_of(*values: Value) -> Iterator[TensorValue]:
    """Yield every tensor in the values and in their items."""
    for value in values:
        if isinstance(value, SequenceValue | GroupValue):
            yield from tensors_of(*value.items)
        elif isinstance(value, TensorValue):
            yield value


def storages_of(*values: Value) -> Iterator[Storage]:
    """Yield every storage in the values and in their items."""
    for tensor in tensors_of(*values):
        yield from tensor.all


def holds_tensors(*values: Value) -> bool:
    """Return whether there is a tensor among the values or their items."""
    return any(True for _ in storages_of(*values))


def use(*values: Value) -> None:
    """Note that the tensors in the values are used as tensors, so that none of them can be taken for a size."""
    for storage in storages_of(*values):
        storage.used = True


def sizes_in(*values: Value) -> Iterator[str]:
    """Yield the names of inputs that were taken for sizes, in the values and their items."""
    for value in values:
        if isinstance(value, GroupValue):
            yield from sizes_in(*value.items)
        elif isinstance(value, ConstantValue) and value.name:
            yield value.name


def constants_of(*values: Value) -> tuple[object, ...]:
    """Return what the source spells out among the values, with their lists as tuples and what is no constant left out."""
    found: list[object] = []
    for value in values:
        if isinstance(value, ConstantValue):
            found.append(value.name or value.value)
        elif isinstance(value, GroupValue):
            found.append(constants_of(*value.items))
    return tuple(found)


def computed(*values: Value) -> ConstantValue:
    """Return a number that is computed from others, and so from the inputs that were taken for sizes among them.

    It keeps such an input's name, because Python's conditions and some functions give one of their operands itself.
    """
    return ConstantValue(name=next(sizes_in(*values), ""))
