"""The state that reading a wrapper builds up: the steps so far, what is current, and what memory is held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.trace import (
    CALLER,
    COLLECTIVES,
    HOST,
    Allocate,
    Free,
    Launch,
    Record,
    Step,
    Synchronize,
    Trace,
    Wait,
)
from graphstreams.verification.wrapper.abstract_values import Event, Heap, Storage, Stream, Tensor, Value, storages_of

_MAX_STEPS = 5_000_000


class AbstractMachine:
    """Emits steps. Streams and events are those of the runtime: a name twice acquired is the same object."""

    def __init__(self) -> None:
        self.heap = Heap(self._free)
        self.line = 0
        self.inputs: dict[Storage, None] = {}
        self.outputs: list[Storage] = []
        self.stream = CALLER  # the current one
        self.acquired: int | None = None  # how many aux streams the runtime gave
        self._steps: list[Step] = []
        self._indexed = {0: CALLER}  # Dynamo's index of a user object; 0 is the stream that was current
        self._device: object = None
        self._private_events = 0
        self._collectives: dict[Storage, list[tuple[int, tuple[Value, ...]]]] = {}
        self._collective_count = 0

    def unsupported(self, construct: str) -> UnreadableWrapper:
        """The error to raise at the line that is being read."""
        return UnreadableWrapper(self.line, construct)

    def use_device(self, device: object) -> None:
        """One wrapper, one device: streams of two devices have pools and current streams of their own."""
        if not isinstance(device, int):
            raise self.unsupported("a device that is not named by a number")
        if self._device is None:
            self._device = device
        elif self._device != device:
            raise self.unsupported(f"a second device, {device} beside {self._device}")

    def indexed_stream(self, index: object) -> Stream:
        """The stream that Dynamo registered as user object `index`."""
        if not isinstance(index, int):
            raise self.unsupported("a stream whose index is not a number")
        if self.acquired is not None:
            raise self.unsupported("a stream of Dynamo's beside those of the runtime: they may be the same")
        if len(self._indexed) >= COLLECTIVES:
            raise self.unsupported("more streams than a wrapper can use")
        return Stream(self._indexed.setdefault(index, len(self._indexed)))

    def acquire(self, streams: int) -> None:
        """Take aux streams of the runtime, numbered from 1."""
        if self.acquired is not None:
            raise self.unsupported("streams that are acquired a second time: with another priority they are others")
        if len(self._indexed) > 1:
            raise self.unsupported("streams of the runtime beside Dynamo's: they may be the same")
        self.acquired = streams

    def private_event(self) -> Event:
        self._private_events += 1
        return Event(f"private event {self._private_events}")

    def _emit(self, step: Step) -> None:
        if len(self._steps) >= _MAX_STEPS:
            raise self.unsupported("too many steps to be one graph")
        self._steps.append(step)

    def allocate(self, *names: str, on_host: bool = False) -> Tensor:
        storage = self.heap.storage(*names, on_host=on_host)
        self._emit(Allocate(HOST if on_host else self.stream, self.line, storage.key))
        return Tensor((storage,))

    def _free(self, storage: Storage, certain: bool) -> None:
        self._emit(Free(self.stream, self.line, storage.key, certain))

    def launch(
        self,
        name: str,
        reads: Iterable[Value],
        writes: Iterable[Value],
        *,
        stream: int | None = None,
        scratch: bool = False,
    ) -> None:
        """A launch; with `scratch`, of something that may take memory from the allocator while it runs."""
        written = list(writes)
        if scratch:
            # Any memory of the pool may become an operator's scratch space (sort, topk, cuBLASLt), as a later
            # allocation's may.
            written.append(self.allocate(f"scratch memory of {name}"))
        self._emit(Launch(self.stream if stream is None else stream, self.line, name, _keys(reads), _keys(written)))

    def run(self, name: str, reads: Iterable[Value], writes: Iterable[Value]) -> None:
        """An operator: on the current stream, and of tensors in host memory on the host, at once."""
        used = [[Tensor((storage,)) for storage in storages_of(*values)] for values in (reads, writes)]
        on_host = [[t for t in part if t.storages[0].on_host or t.storages[0].late] for part in used]
        if any(on_host):
            self.launch(name, *on_host, stream=HOST)
        self.launch(name, *([t for t in part if not t.storages[0].on_host] for part in used), scratch=True)

    def record(self, event: str, stream: int) -> None:
        self._emit(Record(stream, self.line, event))

    def wait(self, event: str, stream: int) -> None:
        self._emit(Wait(stream, self.line, event))

    def order(self, earlier: int, later: int) -> None:
        """Make one stream wait for another, by an event that nothing else sees."""
        event = self.private_event().name
        self.record(event, earlier)
        self.wait(event, later)

    def synchronize(self, event: str | None = None) -> None:
        self._emit(Synchronize(self.stream, self.line, event))

    def synchronize_stream(self, stream: int) -> None:
        event = self.private_event().name
        self.record(event, stream)
        self.synchronize(event)

    def start_collective(self, name: str, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> None:
        """A collective runs on a stream of its process group, after the current one, until somebody waits for it.

        The group keeps its tensors alive until then (torch 2.15.0, `ProcessGroupNCCL`, `TensorShelf`), and NCCL takes
        its scratch memory from elsewhere than the allocator.
        """
        stream = COLLECTIVES + self._collective_count
        self._collective_count += 1
        self.order(self.stream, stream)
        self.launch(name, reads, writes, stream=stream)
        held = (*reads, *writes)
        for value in held:
            self.heap.hold(value)
        for storage in storages_of(*writes):
            self._collectives.setdefault(storage, []).append((stream, held))
            held = ()

    def finish_collective(self, value: Value) -> None:
        """The current stream waits for the collectives that write `value`."""
        for storage in storages_of(value):
            for stream, held in self._collectives.pop(storage, ()):
                self.order(stream, self.stream)
                for item in held:
                    self.heap.drop(item)

    def trace(self) -> Trace:
        """What has been read, with storages called by the names that owned them."""
        labels = _labels(self.heap.storages)
        steps = tuple(_relabel(step, labels) for step in self._steps)
        return Trace(steps, _named(self.inputs, labels), _named(self.outputs, labels))


def _keys(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(storage.key for storage in storages_of(*values)))


def _named(storages: Iterable[Storage], labels: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels[storage.key] for storage in storages))


def _labels(storages: list[Storage]) -> dict[str, str]:
    labels: dict[str, str] = {}
    taken: dict[str, int] = {}
    for storage in storages:
        first, *later = storage.names or ["unnamed memory"]
        label = f"{first} (later {', '.join(later)})" if later else first
        taken[label] = count = taken.get(label, 0) + 1
        labels[storage.key] = label if count == 1 else f"{label} [{count}]"
    return labels


def _relabel(step: Step, labels: dict[str, str]) -> Step:
    if isinstance(step, Launch):
        reads, writes = (tuple(labels[key] for key in keys) for keys in (step.reads, step.writes))
        return replace(step, reads=reads, writes=writes)
    return replace(step, storage=labels[step.storage]) if isinstance(step, Allocate | Free) else step
