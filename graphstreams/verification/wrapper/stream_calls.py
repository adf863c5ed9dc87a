"""What functions, methods and operators do that deal with devices, streams and events.

`FUNCTIONS` lists the functions, `stream_method` the methods, and `stream_operator` those of `torch.ops.streams`. Read in torch
2.14.1 and 2.15.0: `_inductor/codegen/cuda/device_op_overrides.py`, `_dynamo/variables/streams.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from graphstreams.verification.trace import CALLER, COLLECTIVES
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    CONTEXT,
    NOTHING,
    Call,
    EventValue,
    RawStreamValue,
    StreamValue,
    Value,
)

CallHandler = Callable[[AbstractMachine, Call], Value]


def _on_device(result: Callable[[AbstractMachine], Value]) -> CallHandler:
    """Return a function whose only argument is a device's number."""

    def function(machine: AbstractMachine, call: Call) -> Value:
        if len(call.values) != 1:
            raise machine.unsupported(f"{call.path} with these arguments")
        machine.use_device(call.constant(0))
        return result(machine)

    return function


def _without_arguments(result: Callable[[AbstractMachine], Value]) -> CallHandler:
    """Return a function without arguments."""

    def function(machine: AbstractMachine, call: Call) -> Value:
        if call.values:
            raise machine.unsupported(f"{call.path} with arguments")
        return result(machine)

    return function


def _acquire(machine: AbstractMachine, call: Call) -> Value:
    """Return what `graphstreams.runtime.streams.acquire_for_call` gives: the caller's stream, aux streams, then events."""
    machine.use_device(call.constant(0))
    streams, events, priority = call.constant(1), call.constant(2), call.constant(3)
    numbers = isinstance(streams, int) and isinstance(events, int) and isinstance(priority, int | None)
    if machine.stream != CALLER or not numbers or call.keywords or not 3 <= len(call.arguments) <= 4:
        raise machine.unsupported("streams that are not acquired for the caller's stream by two numbers")
    if not (0 <= streams < COLLECTIVES and 0 <= events <= 1_000_000):  # type: ignore[operator]
        raise machine.unsupported("more streams or events than a wrapper can use")
    machine.acquire(streams)  # type: ignore[arg-type]
    items: list[Value] = [StreamValue(number) for number in (CALLER, *range(1, streams + 1))]  # type: ignore[operator]
    return machine.heap.sequence([*items, *(EventValue(f"event{n}") for n in range(events))])  # type: ignore[call-overload]


def _indexed_stream(machine: AbstractMachine, call: Call) -> Value:
    """Return a stream by its index among Dynamo's user objects."""
    if len(call.values) != 1:
        raise machine.unsupported(f"{call.path} with these arguments")
    return machine.indexed_stream(call.constant(0))


def _synchronize(machine: AbstractMachine) -> Value:
    machine.synchronize()
    return NOTHING


def stream_method(machine: AbstractMachine, of: StreamValue | EventValue, call: Call) -> Value:
    """Call a method: `event.record(stream)`, `event.wait(stream)`, or `record()` and `synchronize()` of an event it made."""
    kind = type(of).__name__.removesuffix("Value").lower()
    if call.keywords:
        raise machine.unsupported(f"the method {call.path} of a {kind} with keywords")
    match of, call.path, call.arguments:
        case EventValue(name), "record", (StreamValue(number),):
            machine.record(name, number)
        case EventValue(name), "wait", (StreamValue(number),):
            machine.wait(name, number)
        case EventValue(name), "record", ():
            machine.record(name, machine.stream)
        case EventValue(name), "synchronize", ():
            machine.synchronize(name)
        case _:
            raise machine.unsupported(f"the method {call.path} of a {kind} with these arguments")
    return NOTHING


def stream_operator(machine: AbstractMachine, call: Call) -> Value:
    """Call an operator of `torch.ops.streams`, which names streams and events by their index among Dynamo's user objects."""
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


FUNCTIONS: dict[str, CallHandler] = {
    "torch.cuda._DeviceGuard": _on_device(lambda machine: CONTEXT),
    "torch.cuda.set_device": _on_device(lambda machine: NOTHING),
    "torch._C._cuda_getCurrentRawStream": _on_device(lambda machine: RawStreamValue(machine.stream)),
    "torch.cuda.current_stream": _without_arguments(lambda machine: StreamValue(machine.stream)),
    "graphstreams.runtime.streams.acquire_for_call": _acquire,
    "torch._dynamo.variables.streams._get_stream_by_index": _indexed_stream,
    "torch.Event": _without_arguments(AbstractMachine.private_event),
    "torch.cuda.synchronize": _without_arguments(_synchronize),
}
