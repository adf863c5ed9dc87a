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


def _taking(count: int, result: CallHandler, on_device: bool = False) -> CallHandler:
    """Return a function of that many arguments. With `on_device`, the first is a device's number."""

    def function(machine: AbstractMachine, call: Call) -> Value:
        if len(call.values) != count:
            raise machine.unsupported(f"{call.path} with {'these ' if count else ''}arguments")
        if on_device:
            machine.use_device(call.constant(0))
        return result(machine, call)

    return function


def _acquire(machine: AbstractMachine, call: Call) -> Value:
    """Return what `graphstreams.runtime.streams.acquire_for_call` gives: the caller's stream, aux streams, then events."""
    machine.use_device(call.constant(0))
    streams, events, priority = map(call.constant, range(1, 4))
    fits = machine.stream == CALLER and not call.keywords and 3 <= len(call.arguments) <= 4 and isinstance(priority, int | None)
    if not (fits and isinstance(streams, int) and isinstance(events, int)):
        raise machine.unsupported("streams that are not acquired for the caller's stream by two numbers")
    if not (0 <= streams < COLLECTIVES and 0 <= events <= 1_000_000):
        raise machine.unsupported("more streams or events than a wrapper can use")
    machine.acquire(streams)
    items: list[Value] = [StreamValue(number) for number in (CALLER, *range(1, streams + 1))]
    return machine.heap.sequence([*items, *(EventValue(f"event{n}") for n in range(events))])


def _synchronize(machine: AbstractMachine, call: Call) -> Value:
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
    "torch.cuda._DeviceGuard": _taking(1, lambda machine, call: CONTEXT, on_device=True),
    "torch.cuda.set_device": _taking(1, lambda machine, call: NOTHING, on_device=True),
    "torch._C._cuda_getCurrentRawStream": _taking(1, lambda machine, call: RawStreamValue(machine.stream), on_device=True),
    "torch.cuda.current_stream": _taking(0, lambda machine, call: StreamValue(machine.stream)),
    "graphstreams.runtime.streams.acquire_for_call": _acquire,
    "torch._dynamo.variables.streams._get_stream_by_index": _taking(
        1, lambda machine, call: machine.indexed_stream(call.constant(0))
    ),
    "torch.Event": _taking(0, lambda machine, call: machine.private_event()),
    "torch.cuda.synchronize": _taking(0, _synchronize),
}
