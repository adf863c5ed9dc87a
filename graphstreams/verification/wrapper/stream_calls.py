"""What the functions and methods do that deal with devices, streams and events."""

from __future__ import annotations

from collections.abc import Callable

from graphstreams.verification.trace import CALLER, COLLECTIVES
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import CONTEXT, NOTHING, Call, Event, RawStream, Stream, Value


def _device_guard(machine: AbstractMachine, call: Call) -> Value:
    _one_device(machine, call)
    return CONTEXT


def _set_device(machine: AbstractMachine, call: Call) -> Value:
    _one_device(machine, call)
    return NOTHING


def _one_device(machine: AbstractMachine, call: Call) -> None:
    if len(call.values) != 1:
        raise machine.unsupported(f"{call.path} with these arguments")
    machine.use_device(call.constant(0))


def _raw_stream(machine: AbstractMachine, call: Call) -> Value:
    """The handle of the current stream."""
    _one_device(machine, call)
    return RawStream(machine.stream)


def _current_stream(machine: AbstractMachine, call: Call) -> Value:
    """The current stream as an object."""
    _no_arguments(machine, call)
    return Stream(machine.stream)


def _no_arguments(machine: AbstractMachine, call: Call) -> None:
    if call.values:
        raise machine.unsupported(f"{call.path} with arguments")


def _acquire(machine: AbstractMachine, call: Call) -> Value:
    """`graphstreams.runtime.streams.acquire_for_call`: the caller's stream, aux streams 1..n, then events 0..m-1."""
    machine.use_device(call.constant(0))
    streams, events, priority = call.constant(1), call.constant(2), call.constant(3)
    numbers = isinstance(streams, int) and isinstance(events, int) and isinstance(priority, int | None)
    if machine.stream != CALLER or not numbers or call.keywords or not 3 <= len(call.arguments) <= 4:
        raise machine.unsupported("streams that are not acquired for the caller's stream by two numbers")
    if not (0 <= streams < COLLECTIVES and 0 <= events <= 1_000_000):  # type: ignore[operator]
        raise machine.unsupported("more streams or events than a wrapper can use")
    machine.acquire(streams)  # type: ignore[arg-type]
    items: list[Value] = [Stream(number) for number in (CALLER, *range(1, streams + 1))]  # type: ignore[operator]
    return machine.heap.bundle([*items, *(Event(f"event{n}") for n in range(events))])  # type: ignore[call-overload]


def _indexed_stream(machine: AbstractMachine, call: Call) -> Value:
    """A stream by its index among Dynamo's user objects."""
    if len(call.values) != 1:
        raise machine.unsupported(f"{call.path} with these arguments")
    return machine.indexed_stream(call.constant(0))


def _new_event(machine: AbstractMachine, call: Call) -> Value:
    """An event that the wrapper makes for itself."""
    _no_arguments(machine, call)
    return machine.private_event()


def _synchronize(machine: AbstractMachine, call: Call) -> Value:
    """The host waits for all streams."""
    _no_arguments(machine, call)
    machine.synchronize()
    return NOTHING


def stream_method(machine: AbstractMachine, of: Stream | Event, call: Call) -> Value:
    """`event.record(stream)`, `event.wait(stream)`; of an event that the wrapper made, `record()` and `synchronize()`."""
    kind = type(of).__name__.lower()
    if call.keywords:
        raise machine.unsupported(f"the method {call.path} of a {kind} with keywords")
    match of, call.path, call.arguments:
        case Event(name), "record", (Stream(number),):
            machine.record(name, number)
        case Event(name), "wait", (Stream(number),):
            machine.wait(name, number)
        case Event(name), "record", ():
            machine.record(name, machine.stream)
        case Event(name), "synchronize", ():
            machine.synchronize(name)
        case _:
            raise machine.unsupported(f"the method {call.path} of a {kind} with these arguments")
    return NOTHING


def stream_operator(machine: AbstractMachine, call: Call) -> Value:
    """`torch.ops.streams`: streams and events by their index among Dynamo's user objects."""
    name = call.path.removeprefix("torch.ops.streams.").removesuffix(".default")
    first, second = call.constant(0), call.constant(1)
    if call.keywords or not isinstance(first, int | None):
        raise machine.unsupported(f"the stream operator {name} with these arguments")
    if name == "record_event":
        machine.record(f"user event {first}", machine.indexed_stream(second).number)
    elif name in ("wait_event", "sync_dealloc"):
        machine.wait(f"user event {first}", machine.indexed_stream(second).number)
    elif name == "wait_stream":
        machine.order(machine.indexed_stream(second).number, machine.indexed_stream(first).number)
    elif name == "synchronize_event":
        machine.synchronize(f"user event {first}")
    elif name == "synchronize_stream":
        machine.synchronize_stream(machine.indexed_stream(first).number)
    elif name == "synchronize_device":
        machine.synchronize()
    else:
        raise machine.unsupported(f"the stream operator {name}")
    return NOTHING


FUNCTIONS: dict[str, Callable[[AbstractMachine, Call], Value]] = {
    "torch.cuda._DeviceGuard": _device_guard,
    "torch.cuda.set_device": _set_device,
    "torch._C._cuda_getCurrentRawStream": _raw_stream,
    "torch.cuda.current_stream": _current_stream,
    "graphstreams.runtime.streams.acquire_for_call": _acquire,
    "torch._dynamo.variables.streams._get_stream_by_index": _indexed_stream,
    "torch.Event": _new_event,
    "torch.cuda.synchronize": _synchronize,
}
