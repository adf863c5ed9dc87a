"""The state that reading a wrapper builds up: the steps so far, what is current, and which memory is held."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.elements import Elements
from graphstreams.verification.trace import (
    CALLER,
    COLLECTIVES,
    HOST,
    AllocateStep,
    FinishStep,
    FreeStep,
    LaunchStep,
    RecordStep,
    StartStep,
    Step,
    SynchronizeStep,
    Trace,
    WaitStep,
)
from graphstreams.verification.wrapper.abstract_values import (
    EventValue,
    Heap,
    Storage,
    StreamValue,
    TensorValue,
    Value,
    sizes_in,
    storages_of,
    tensors_of,
)

_MAX_STEPS = 5_000_000


@dataclass(eq=False)
class _Collective:
    """A collective that runs, and what its process group holds."""

    number: int
    held: tuple[Value, ...]


class AbstractMachine:
    """What a call has done so far. A stream or an event that is acquired twice is the same object, as in the runtime."""

    def __init__(self) -> None:
        self.heap = Heap(self._free)
        self.line = 0
        self.inputs: dict[Storage, None] = {}
        self.outputs: list[Storage] = []
        self.stream = CALLER  # the current stream
        self.acquired: int | None = None  # how many aux streams the runtime gave
        self._steps: list[Step] = []
        self._indexed = {0: CALLER}  # Dynamo's index of a user object; 0 is the stream that was current
        self._device: object = None
        self._private_events = itertools.count(1)
        self._collectives: dict[tuple[Storage, ...], list[_Collective]] = {}  # by the memory that may be the tensor's
        self._collective_numbers = itertools.count()

    def unsupported(self, construct: str) -> UnreadableWrapper:
        """Return the error to raise at the line that is being read."""
        return UnreadableWrapper(self.line, construct)

    def refuse_sizes(self, what: str, *values: Value) -> None:
        """Raise UnreadableWrapper if an input that was taken for a size is among what `what` needs as tensors."""
        for name in sizes_in(*values):
            raise self.unsupported(f"{what} takes {name} for a tensor, an input whose name is one of a size")

    def take_for_object(self, otherwise: str, value: TensorValue) -> None:
        """Take an input for a Python object, which has no memory, and forget its storage.

        Raises UnreadableWrapper, which says `otherwise`, if it is no input, or has been used as a tensor.
        """
        for storage in value.all:
            if not storage.is_object and (storage.used or storage not in self.inputs):
                raise self.unsupported(otherwise)
            self.inputs.pop(storage, None)
            storage.is_object = storage.ended = True

    def _refuse_objects(self, name: str, *values: Value) -> None:
        if found := next((storage for storage in storages_of(*values) if storage.is_object), None):
            raise self.unsupported(f"{name} of {next(iter(found.names), 'an input')}, which an operator takes for an object")

    def use_device(self, device: object) -> None:
        """Note the device. Raises UnreadableWrapper for a second one: its streams have pools and a current one of their own."""
        if not isinstance(device, int):
            raise self.unsupported("a device that is not named by a number")
        if self._device not in (None, device):
            raise self.unsupported(f"a second device, {device} beside {self._device}")
        self._device = device

    def indexed_stream(self, index: object) -> StreamValue:
        """Return the stream that Dynamo registered as user object `index`."""
        if not isinstance(index, int):
            raise self.unsupported("a stream whose index is not a number")
        if self.acquired is not None:
            raise self.unsupported("a stream of Dynamo's beside those of the runtime: they may be the same")
        if len(self._indexed) >= COLLECTIVES:
            raise self.unsupported("more streams than a wrapper can use")
        return StreamValue(self._indexed.setdefault(index, len(self._indexed)))

    def acquire(self, streams: int) -> None:
        """Take that many aux streams of the runtime, numbered from 1."""
        if self.acquired is not None:
            raise self.unsupported("streams that are acquired a second time: with another priority they are others")
        if len(self._indexed) > 1:
            raise self.unsupported("streams of the runtime beside Dynamo's: they may be the same")
        self.acquired = streams

    def private_event(self) -> EventValue:
        """Return an event that nothing else knows."""
        return EventValue(f"private event {next(self._private_events)}")

    def _emit(self, step: Step) -> None:
        if len(self._steps) >= _MAX_STEPS:
            raise self.unsupported("too many steps to be one graph")
        self._steps.append(step)

    def allocate(self, *names: str, on_host: bool = False) -> TensorValue:
        """Return a tensor over new memory of the current stream, or of the host."""
        storage = self.heap.storage(*names, on_host=on_host)
        self._emit(AllocateStep(HOST if on_host else self.stream, self.line, storage.key))
        return TensorValue((storage,))

    def held_by_caller(self, name: str) -> TensorValue:
        """Return a tensor that is there before the call, with a reference of whoever gave it."""
        storage = self.heap.storage(name)
        self.inputs[storage] = None
        tensor = TensorValue((storage,))
        self.heap.hold(tensor)
        return tensor

    def _free(self, storage: Storage, certain: bool) -> None:
        self._emit(FreeStep(self.stream, self.line, storage.key, certain))

    def launch(
        self,
        name: str,
        reads: Iterable[Value],
        writes: Iterable[Value],
        *,
        stream: int | None = None,
        scratch: bool = False,
        parts: Mapping[Storage, Elements] = MappingProxyType({}),
    ) -> None:
        """Launch a kernel. With `scratch`, it may take memory from the allocator while it runs.

        It touches no more than `parts` of the storages in them.
        """
        written, reads = list(writes), list(reads)
        self._refuse_objects(name, *written, *reads)
        if scratch:
            # Sort, topk, cuBLASLt and others take scratch space from the pool, as a later allocation may.
            written.append(self.allocate(f"scratch memory of {name}"))
        touched = tuple((storage.key, elements) for storage, elements in parts.items())
        stream = self.stream if stream is None else stream
        self._emit(LaunchStep(stream, self.line, name, _keys(reads), _keys(written), touched))

    def run(
        self,
        name: str,
        reads: Iterable[Value],
        writes: Iterable[Value],
        parts: Mapping[Storage, Elements] = MappingProxyType({}),
    ) -> None:
        """Run an operator: on the current stream, and at once on the host for tensors in host memory.

        It touches no more than `parts` of the storages in them.
        """
        used = [[TensorValue((storage,)) for storage in storages_of(*values)] for values in (reads, writes)]
        on_host = [[t for t in part if t.storages[0].on_host or t.storages[0].copy_pending] for part in used]
        if any(on_host):
            self.launch(name, *on_host, stream=HOST)
        self.launch(name, *([t for t in part if not t.storages[0].on_host] for part in used), scratch=True, parts=parts)

    def record(self, event: str, stream: int) -> None:
        """Record an event on a stream."""
        self._emit(RecordStep(stream, self.line, event))

    def wait(self, event: str, stream: int) -> None:
        """Make a stream wait for an event."""
        self._emit(WaitStep(stream, self.line, event))

    def order(self, earlier: int, later: int) -> None:
        """Make one stream wait for another."""
        event = self.private_event().name
        self.record(event, earlier)
        self.wait(event, later)

    def synchronize(self, event: str | None = None) -> None:
        """Make the host wait for an event, or for all streams."""
        self._emit(SynchronizeStep(self.stream, self.line, event))

    def synchronize_stream(self, stream: int) -> None:
        """Make the host wait for a stream."""
        event = self.private_event().name
        self.record(event, stream)
        self.synchronize(event)

    def start_collective(
        self, name: str, reads: tuple[Value, ...], writes: tuple[Value, ...], arguments: tuple[object, ...]
    ) -> None:
        """Start a collective on a stream of its process group, behind the current stream.

        Its group keeps its tensors alive until a stream waits for it (torch 2.15.0, `ProcessGroupNCCL`, `TensorShelf`). NCCL
        does not take its scratch memory from the allocator. `arguments` are what it is given beside tensors.
        """
        self._refuse_objects(name, *reads, *writes)
        collective = _Collective(next(self._collective_numbers), (*reads, *writes))
        number, sizes = collective.number, tuple(tensor.sizes for tensor in tensors_of(*reads))
        self._emit(StartStep(self.stream, self.line, name, _keys(reads), _keys(writes), (), number, arguments, sizes))
        for value in collective.held:
            self.heap.hold(value)
        for tensor in tensors_of(*writes):
            self._collectives.setdefault(tensor.all, []).append(collective)

    def finish_collective(self, name: str, value: Value) -> None:
        """Make the current stream wait for the collectives that write the tensors in `value`, which need not be held any more.

        All tensors of one collective share its end, so the first wait for one of them lets go of all.
        """
        finished: list[_Collective] = []
        for tensor in tensors_of(value):
            # If it is a tensor or a copy of it, it is known of the same tensor only what was written by way of it.
            if any(tensor.all != other and set(tensor.all) & set(other) for other in self._collectives):
                raise self.unsupported(f"{name} of what may be another tensor than the one that a collective writes")
            finished += self._collectives.pop(tensor.all, [])
        numbers = tuple(sorted({collective.number for collective in finished}))
        self._emit(FinishStep(self.stream, self.line, name, collectives=numbers))
        for collective in finished:
            held, collective.held = collective.held, ()
            for item in held:
                self.heap.drop(item)

    def trace(self) -> Trace:
        """Return what has been read, with storages called by the names that owned them."""
        labels = _labels(self.heap.storages)
        steps = tuple(_relabel(step, labels) for step in self._steps)
        inputs, outputs = (dict.fromkeys(labels[s.key] for s in storages) for storages in (self.inputs, self.outputs))
        return Trace(steps, tuple(inputs), tuple(outputs))


def _keys(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(storage.key for storage in storages_of(*values)))


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
    if isinstance(step, LaunchStep):
        reads, writes = (tuple(labels[key] for key in keys) for keys in (step.reads, step.writes))
        parts = tuple((labels[key], elements) for key, elements in step.parts)
        return replace(step, reads=reads, writes=writes, parts=parts)
    return replace(step, storage=labels[step.storage]) if isinstance(step, AllocateStep | FreeStep) else step
