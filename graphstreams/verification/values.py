"""What names of a wrapper stand for, and which storages their last references keep alive.

Python frees a tensor when its last reference goes, so the reader counts references as CPython does: a name and an item
of a list hold one each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Storage:
    """Memory of one allocation. `names` are those that have owned it, first to last."""

    key: str  # unique within a trace
    names: list[str] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor over one storage; over several where the source leaves open over which."""

    storages: tuple[Storage, ...]


@dataclass(eq=False)
class Bundle:
    """A tuple or a list."""

    items: list[Value]
    count: int = 0


@dataclass(frozen=True)
class Constant:
    """Anything that holds no memory of the device: sizes, flags, dtypes. `value` where the source spells it out."""

    value: object = None


@dataclass(frozen=True)
class Size(Constant):
    """An input that is taken for a size because of its name."""

    name: str = ""


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
class Path:
    """Something imported, by its full dotted name."""

    path: str


@dataclass(frozen=True)
class Method:
    """A method of a value."""

    of: Value
    name: str


@dataclass(frozen=True)
class Named:
    """A kernel or a function that the wrapper itself defines."""

    name: str


Value = Tensor | Bundle | Constant | Stream | RawStream | Event | Path | Method | Named


class Heap:
    """Reference counts of storages and lists; `on_free` is called with a storage that loses its last reference."""

    def __init__(self, on_free: Callable[[Storage], None]) -> None:
        self._on_free = on_free
        self._fresh: list[Storage | Bundle] = []
        self._made = 0
        self.storages: list[Storage] = []

    def storage(self, *names: str) -> Storage:
        """A new storage. It is freed at the next `collect` unless something holds it by then."""
        self._made += 1
        storage = Storage(f"#{self._made}", list(names))
        self.storages.append(storage)
        self._fresh.append(storage)
        return storage

    def bundle(self, items: list[Value]) -> Bundle:
        bundle = Bundle(items)
        for item in items:
            self.hold(item)
        self._fresh.append(bundle)
        return bundle

    def hold(self, value: Value) -> None:
        for counted in _counted(value):
            counted.count += 1

    def drop(self, value: Value) -> None:
        for counted in _counted(value):
            counted.count -= 1
            if counted.count == 0:
                self._end(counted)

    def lend(self, value: Value) -> None:
        """Drop a reference without ending the value: the statement that gets it may hold it."""
        for counted in _counted(value):
            counted.count -= 1
            self._fresh.append(counted)

    def nest(self, fresh: list[Storage | Bundle]) -> list[Storage | Bundle]:
        """Put `fresh` in the place of what the running statement made; a function that is called has statements too."""
        outer, self._fresh = self._fresh, fresh
        return outer

    def clear(self, bundle: Bundle) -> None:
        items, bundle.items = bundle.items, []
        for item in items:
            self.drop(item)

    def collect(self) -> None:
        """Free what the last statement made and nothing holds."""
        fresh, self._fresh = self._fresh, []
        for counted in reversed(fresh):  # a list before what it holds
            if counted.count == 0:
                self._end(counted)

    def _end(self, counted: Storage | Bundle) -> None:
        if isinstance(counted, Bundle):
            self.clear(counted)
        else:
            counted.count = -1  # freed: nothing can hold it again
            self._on_free(counted)


def _counted(value: Value) -> tuple[Storage | Bundle, ...]:
    if isinstance(value, Bundle):
        return (value,)
    return value.storages if isinstance(value, Tensor) else ()


def storages_of(*values: Value) -> Iterator[Storage]:
    """Every storage in the values, through lists."""
    for value in values:
        if isinstance(value, Bundle):
            yield from storages_of(*value.items)
        elif isinstance(value, Tensor):
            yield from value.storages
