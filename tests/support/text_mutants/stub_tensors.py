"""Stand in for tensors: what is done to them is recorded, and memory goes with the last that uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.support.text_mutants.trace import CALLER, Allocate, Free, HostAccess, Launch, Record, Recording, Synchronize, Wait

Places = tuple[tuple[int, int], ...]


class Layout(NamedTuple):
    """The sizes of a tensor, and where its elements are in its storage."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int | None = 0  # None: not known

    def places(self) -> int | None:
        """Return the set of them, bit by bit; None if that is not known, or they are too many to be listed."""
        numbers = (*self.sizes, *self.strides, self.offset)
        if len(self.sizes) != len(self.strides) or not all(isinstance(number, int) and number >= 0 for number in numbers):
            return None
        assert self.offset is not None
        if self.offset + sum(size * stride for size, stride in zip(self.sizes, self.strides, strict=True)) > MOST_PLACES:
            return None
        found = 1 << self.offset
        for size, stride in zip(self.sizes, self.strides, strict=True):
            found = _repeated(found, size, stride)
        return found


MOST_PLACES = 1 << 23


def _repeated(places: int, count: int, stride: int) -> int:
    """Return the places that many times, each a stride behind the one before."""
    if count < 2:
        return places if count else 0
    half = _repeated(places, count // 2, stride)
    both = half | half << (count // 2) * stride
    return both | places << (count - 1) * stride


class Interrupt(BaseException):
    """As KeyboardInterrupt."""


class Device:
    """The one GPU: its streams, and which is current. All that happens there is recorded."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.current = CALLER
        self.events = 0
        self.until_signal = 0  # launches; below 1 none comes
        self.interrupted = False

    def emit(self, step: Any) -> None:
        """Put a step behind those so far."""
        self.recording.steps.append(step)

    def allocate(self, on_host: bool = False, layout: Layout | None = None) -> Tensor:
        """Return a tensor of memory of its own: of the current stream's pool, or of the host's."""
        return Tensor(Storage(self, on_host), layout)

    def launch(
        self, name: str, reads: Iterable[Any], writes: Iterable[Any], stream: int | None = None, places: Places = ()
    ) -> None:  # fmt: skip
        """Give work to a stream, by default to the current one."""
        stream = self.current if stream is None else stream
        self.emit(Launch(stream, numbers(reads), numbers(writes), name, places))
        self.until_signal -= 1
        if self.until_signal == 0:
            self.interrupted = True
            raise Interrupt

    def library_call(self, name: str, reads: Iterable[Any], writes: Iterable[Any], places: Places = ()) -> None:
        """Launch what may take memory for itself and give it back before it returns."""
        scratch = self.allocate()
        self.launch(name, reads, [*writes, scratch], places=places)

    def __repr__(self) -> str:
        return "device(type='cuda', index=0)"


class Storage:
    """Memory. Python's own count of references decides when it is freed."""

    __slots__ = ("device", "number", "on_host", "resized", "stream")

    def __init__(self, device: Device, on_host: bool) -> None:
        self.device, self.on_host, self.stream = device, on_host, device.current
        self.resized = False  # a product gave a tensor over it other sizes than the text does
        recording = device.recording
        self.number = recording.storages
        recording.storages += 1
        if not on_host:
            device.emit(Allocate(self.stream, self.number))

    def __del__(self) -> None:
        # Who frees pinned memory of the host need not wait: the allocator does.
        if not self.on_host:
            self.device.emit(Free(self.number))


class Tensor:
    """A view of a storage."""

    __slots__ = ("layout", "storage")
    __iter__ = None  # what an index would give is not known to end

    def __init__(self, storage: Storage, layout: Layout | None = None) -> None:
        self.storage, self.layout = storage, layout

    def __bool__(self) -> bool:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self.storage)

    def _view(self, *args: Any, **kwargs: Any) -> Tensor:
        return Tensor(self.storage)

    # What may be an alias is one: memory then lives longer, and is shared.
    view = reshape = as_strided = t = permute = squeeze = unsqueeze = select = detach = transpose = expand = contiguous = _view

    @property
    def T(self) -> Tensor:  # noqa: N802
        """Return a view."""
        return Tensor(self.storage)

    data = mT = T  # noqa: N815

    def clone(self) -> Tensor:
        """Return a copy, made on the current stream."""
        device = self.storage.device
        copy = device.allocate(layout=self.layout and self.layout._replace(offset=0))
        device.launch("clone", [self], [copy])
        return copy

    def copy_(self, other: Tensor, non_blocking: bool = False) -> Tensor:
        """Copy on the current stream. To or from the host's memory it is waited for, unless `non_blocking`."""
        device = self.storage.device
        device.launch("copy_", [other], [self])
        if not non_blocking and (self.storage.on_host or other.storage.on_host):
            device.emit(Synchronize(device.current))
        return self

    def zero_(self) -> Tensor:
        """Write on the current stream."""
        self.storage.device.launch("zero_", [], [self])
        return self

    def item(self) -> int:
        """Let the host read the value: at once if it has the memory, else when the current stream has come so far."""
        device = self.storage.device
        if self.storage.on_host:
            device.emit(HostAccess(numbers([self]), ()))
        else:
            device.launch("item", [self], [])
            device.emit(Synchronize(device.current))
        return 1


class Stream:
    """A stream whose context leads back to where it was entered, as torch's own."""

    def __init__(self, device: Device, number: int) -> None:
        self.device, self.number = device, number
        self._before: list[int] = []

    def __enter__(self) -> Stream:
        self._before.append(self.device.current)
        self.device.current = self.number
        return self

    def __exit__(self, *error: object) -> None:
        self.device.current = self._before.pop()

    def wait_stream(self, other: Stream) -> None:
        """Let what follows here wait for what the other stream has been given."""
        event = Event(self.device)
        event.record(other)
        event.wait(self)

    def wait_event(self, event: Event) -> None:
        """As the event's `wait`."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """As the event's `record`."""
        event = event or Event(self.device)
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Let the host wait."""
        self.device.emit(Synchronize(self.number))


class AuxStream(Stream):
    """A stream whose context leads back to the caller's stream, wherever it was entered, as this package's."""

    def __exit__(self, *error: object) -> None:
        self.device.current = CALLER


class Event:
    """An event."""

    __slots__ = ("device", "number")

    def __init__(self, device: Device) -> None:
        self.device, self.number = device, device.events
        device.events += 1

    def record(self, stream: Stream | None = None) -> None:
        """Stand for what the stream, by default the current one, has been given."""
        self.device.emit(Record(_number(self.device, stream), self.number))

    def wait(self, stream: Stream | None = None) -> None:
        """Let the stream, by default the current one, wait."""
        self.device.emit(Wait(_number(self.device, stream), self.number))

    def synchronize(self) -> None:
        """Let the host wait for what it stands for."""
        self.device.emit(Synchronize(event=self.number))


def _number(device: Device, stream: Stream | None) -> int:
    if stream is None:
        return device.current
    if not isinstance(stream, Stream):
        raise TypeError("not a stream")
    return stream.number


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield all tensors of nested values."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)
        elif isinstance(value, dict):
            yield from tensors(value.values())


def numbers(values: Iterable[Any]) -> tuple[int, ...]:
    """Return the storages of all tensors of nested values."""
    return tuple(dict.fromkeys(tensor.storage.number for tensor in tensors(values)))


def require_tensors(*values: Any) -> None:
    """Raise TypeError for what is no tensor."""
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"a tensor is needed, not {type(value).__name__}")
