"""What the functions and methods do that deal with devices, streams and events."""

from __future__ import annotations

from graphstreams.verification.call import GUARD, Call, describe, refuse_tensors
from graphstreams.verification.machine import Machine
from graphstreams.verification.trace import CALLER
from graphstreams.verification.values import Constant, Event, RawStream, Stream, Value


def device(machine: Machine, call: Call) -> Value:
    """A device guard, or the choice of a device."""
    machine.use_device(call.constant(0))
    return GUARD


def raw_stream(machine: Machine, call: Call) -> Value:
    """The handle of the current stream."""
    machine.use_device(call.constant(0))
    return RawStream(machine.stream)


def current_stream(machine: Machine, call: Call) -> Value:
    """The current stream as an object."""
    if call.values:
        raise machine.refuse("current_stream of a device that is named")
    return Stream(machine.stream)


def acquire(machine: Machine, call: Call) -> Value:
    """`graphstreams.runtime.streams.acquire_for_call`: the caller's stream, aux streams 1..n, then events 0..m-1."""
    machine.use_device(call.constant(0))
    streams, events = call.constant(1), call.constant(2)
    if machine.stream != CALLER or not isinstance(streams, int) or not isinstance(events, int):
        raise machine.refuse("streams that are not acquired for the caller's stream by two numbers")
    if machine.acquired is not None:
        raise machine.refuse("streams that are acquired a second time: with another priority they are others")
    if streams > 1000 or events > 1_000_000:
        raise machine.refuse("more streams or events than a wrapper can use")
    machine.acquired = streams
    items: list[Value] = [Stream(number) for number in (CALLER, *range(1, streams + 1))]
    return machine.heap.bundle([*items, *(Event(f"event{number}") for number in range(events))])


def indexed_stream(machine: Machine, call: Call) -> Value:
    """A stream by its index among Dynamo's user objects."""
    return machine.indexed_stream(call.constant(0))


def new_event(machine: Machine, call: Call) -> Value:
    """An event that the wrapper makes for itself."""
    refuse_tensors(machine, call)
    return machine.private_event()


def synchronize(machine: Machine, call: Call) -> Value:
    """The host waits for all streams."""
    machine.synchronize()
    return Constant()


def stream_method(machine: Machine, of: Stream | Event, call: Call) -> Value:
    """Methods of streams and events."""
    if call.keywords:
        raise machine.refuse(f"the method {call.path} of {describe(of)} with keywords")
    other = call.arguments[0] if call.arguments else Stream(machine.stream)
    match of, call.path, other:
        case (Event(), "record", Stream()) | (Stream(), "record_event", Event()):
            event, stream = (of, other) if isinstance(of, Event) else (other, of)
            machine.record(event.name, stream.number)  # type: ignore[union-attr]
        case (Event(), "wait", Stream()) | (Stream(), "wait_event", Event()):
            event, stream = (of, other) if isinstance(of, Event) else (other, of)
            machine.wait(event.name, stream.number)  # type: ignore[union-attr]
        case (Stream(), "wait_stream", Stream()):
            machine.order(other.number, of.number)
        case (Event(), "synchronize", _) if not call.arguments:
            machine.synchronize(of.name)
        case (Stream(), "synchronize", _) if not call.arguments:
            machine.synchronize_stream(of.number)
        case _:
            raise machine.refuse(f"the method {call.path} of {describe(of)} with these arguments")
    return Constant()


def stream_operator(machine: Machine, call: Call) -> Value:
    """`torch.ops.streams`: streams and events by their index among Dynamo's user objects."""
    name = call.path.removeprefix("torch.ops.streams.").removesuffix(".default")
    first, second = call.constant(0), call.constant(1)
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
        raise machine.refuse(f"the stream operator {name}")
    return Constant()
