"""What each function does that a wrapper may call: the names that Inductor's code generation writes (torch 2.15.0).

A function that is not in one of these tables has no known effect, and the wrapper that calls it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphstreams.verification.kernels import Kernel, Parameter
from graphstreams.verification.machine import Machine
from graphstreams.verification.operators import Operator, Returned, UnknownOperatorError, read_operator
from graphstreams.verification.values import (
    Bundle,
    Constant,
    Event,
    Path,
    RawStream,
    Stream,
    Tensor,
    Value,
    storages_of,
)

GUARD = Constant("device guard")


@dataclass(frozen=True)
class Call:
    """A call with its arguments evaluated."""

    path: str
    arguments: tuple[Value, ...]
    keywords: Mapping[str, Value]

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.arguments, *self.keywords.values())

    def constant(self, index: int) -> object:
        """The value of an argument that the source spells out, else None."""
        argument = self.arguments[index] if index < len(self.arguments) else None
        return argument.value if isinstance(argument, Constant) else None


def call_path(machine: Machine, call: Call) -> Value:
    """A function that was imported."""
    handler = _FUNCTIONS.get(call.path)
    if handler is not None:
        return handler(machine, call)
    for prefix, family in _FAMILIES.items():
        if call.path.startswith(prefix):
            return family(machine, call)
    raise machine.refuse(f"a call of {call.path}, whose effects are not known")


def call_method(machine: Machine, of: Value, call: Call) -> Value:
    """A method of a value; `call.path` is its name."""
    if isinstance(of, Tensor):
        return _tensor_method(machine, of, call)
    if isinstance(of, Stream | Event):
        return _stream_method(machine, of, call)
    if isinstance(of, Bundle) and call.path == "clear" and not call.values:
        machine.heap.clear(of)
        return Constant()
    if isinstance(of, Constant) and _all_constant(call):
        return Constant()
    raise machine.refuse(f"the method {call.path} of {_describe(of)}")


def call_kernel(machine: Machine, kernel: Kernel, call: Call) -> None:
    """`kernel.run(*arguments, stream=raw_stream)`: runs on the stream whose handle it is given."""
    handle = call.keywords.get("stream")
    if not isinstance(handle, RawStream):
        raise machine.refuse(f"kernel {kernel.name} is not given a stream that came from get_raw_stream")
    if set(call.keywords) != {"stream"}:
        raise machine.refuse(f"kernel {kernel.name} is called with keywords {sorted(call.keywords)}")
    if handle.number != machine.stream:
        raise machine.refuse(f"kernel {kernel.name} is given the handle of a stream that is not the current one")
    parameters = _match(kernel, call.arguments)
    if parameters is None:
        raise machine.refuse(f"the arguments of kernel {kernel.name} do not fit its signature")
    pairs = [(p, a) for p, a in zip(parameters, call.arguments, strict=False) if isinstance(a, Tensor)]
    reads = [argument for parameter, argument in pairs if not parameter.written]
    writes = [argument for parameter, argument in pairs if parameter.written]
    machine.launch(kernel.name, reads, writes, scratch=kernel.allocates)


def _match(kernel: Kernel, arguments: tuple[Value, ...]) -> list[Parameter] | None:
    """The parameters that the arguments are passed to; launchers leave constants out, or do not."""
    everything = list(kernel.parameters)
    for parameters in (everything, [p for p in everything if p.kind not in ("constexpr", "")]):
        missing = parameters[len(arguments) :]
        surplus = arguments[len(parameters) :]
        fits = all(p.pointer == isinstance(a, Tensor) for p, a in zip(parameters, arguments, strict=False))
        if fits and not any(p.pointer for p in missing) and all(isinstance(a, Constant) for a in surplus):
            return parameters
    return None


def _describe(value: Value) -> str:
    return value.path if isinstance(value, Path) else f"a {type(value).__name__.lower()}"


def _all_constant(call: Call) -> bool:
    return not any(True for _ in storages_of(*call.values)) and not any(
        isinstance(value, Stream | Event | RawStream) for value in call.values
    )


# --- memory


def _allocate(machine: Machine, call: Call) -> Value:
    _refuse_tensors(machine, call)
    return machine.allocate()


def _view(machine: Machine, call: Call) -> Value:
    if call.arguments and isinstance(call.arguments[0], Tensor):
        return call.arguments[0]
    raise machine.refuse(f"{call.path} of something that is not a tensor")


def _copy_if_misaligned(machine: Machine, call: Call) -> Value:
    original = _view(machine, call)
    assert isinstance(original, Tensor)
    names = original.storages[0].names
    clone = machine.allocate(f"the aligned copy of {names[0] if names else 'a tensor'}")
    machine.launch("copy_if_misaligned", [original], [clone])
    return Tensor((*original.storages, *clone.storages))


_VIEWS = {"view", "as_strided", "t", "permute", "squeeze", "unsqueeze", "select", "detach", "transpose", "expand"}
_SIZES = {"size", "stride", "dim", "numel", "storage_offset", "element_size", "is_contiguous", "nbytes"}
_FILLS = {"copy_", "zero_", "fill_"}


def _tensor_method(machine: Machine, tensor: Tensor, call: Call) -> Value:
    if call.path in _VIEWS:
        _refuse_tensors(machine, call)
        return tensor
    if call.path in _SIZES:
        return Constant()
    if call.path in _FILLS:
        machine.launch(f"tensor.{call.path}", call.values, [tensor], scratch=True)
        return tensor
    if call.path == "item":
        # The host waits for the value, and with it for the current stream.
        machine.launch("tensor.item", [tensor], [], scratch=True)
        machine.synchronize_stream(machine.stream)
        return Constant()
    if call.path == "clone":
        clone = machine.allocate()
        machine.launch("tensor.clone", [tensor], [clone])
        return clone
    raise machine.refuse(f"the method {call.path} of a tensor")


def _refuse_tensors(machine: Machine, call: Call) -> None:
    if not _all_constant(call):
        raise machine.refuse(f"{call.path} with tensors or streams among its arguments")


# --- things with no effect on memory or streams


def _nothing(machine: Machine, call: Call) -> Value:
    return Constant()


def _pure(machine: Machine, call: Call) -> Value:
    _refuse_tensors(machine, call)
    return Constant()


def _hook(machine: Machine, call: Call) -> Value:
    machine.launch("run_intermediate_hooks", call.values, [], scratch=True)
    return Constant()


# --- devices and streams


def _device(machine: Machine, call: Call) -> Value:
    machine.use_device(call.constant(0))
    return GUARD


def _raw_stream(machine: Machine, call: Call) -> Value:
    machine.use_device(call.constant(0))
    return RawStream(machine.stream)


def _current_stream(machine: Machine, call: Call) -> Value:
    if call.values:
        raise machine.refuse("current_stream of a device that is named")
    return Stream(machine.stream)


def _acquire(machine: Machine, call: Call) -> Value:
    """`graphstreams.runtime.streams.acquire`: aux streams 1..n of the caller's stream, then its events 0..m-1."""
    streams, events = call.constant(1), call.constant(2)
    if call.arguments[:1] != (Stream(0),) or not isinstance(streams, int) or not isinstance(events, int):
        raise machine.refuse("streams that are not acquired for the caller's stream by two numbers")
    if streams > 1000 or events > 1_000_000:
        raise machine.refuse("more streams or events than a wrapper can use")
    items: list[Value] = [Stream(number) for number in range(1, streams + 1)]
    return machine.heap.bundle([*items, *(Event(f"event{number}") for number in range(events))])


def _indexed_stream(machine: Machine, call: Call) -> Value:
    return machine.indexed_stream(call.constant(0))


def _new_event(machine: Machine, call: Call) -> Value:
    _refuse_tensors(machine, call)
    return machine.private_event()


def _synchronize(machine: Machine, call: Call) -> Value:
    machine.synchronize()
    return Constant()


def _stream_method(machine: Machine, of: Stream | Event, call: Call) -> Value:
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
            raise machine.refuse(f"the method {call.path} of {_describe(of)} with these arguments")
    return Constant()


def _stream_operator(machine: Machine, call: Call) -> Value:
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


# --- operators


def _extern_kernel(machine: Machine, call: Call) -> Value:
    """A library kernel: writes `out=`, or returns a tensor of its own."""
    name = "extern_kernels." + call.path.rpartition(".")[2]
    if name.endswith("_"):
        raise machine.refuse(f"{name}, which may write its arguments")
    out = call.keywords.get("out")
    result = machine.allocate() if out is None else out
    reads = [*call.arguments, *(value for key, value in call.keywords.items() if key != "out")]
    machine.launch(name, reads, [result], scratch=True)
    return result


def _operator(machine: Machine, call: Call) -> Value:
    path = call.path.removeprefix("torch.ops.")
    operator, given = _bind(machine, path, call)
    written = [value for name, value in given.items() if name in operator.written]
    results = [_result(machine, returned, given) for returned in operator.returns]
    fresh = [result for result, returned in zip(results, operator.returns, strict=True) if returned.fresh]
    machine.launch(f"torch.ops.{path}", call.values, [*written, *fresh], scratch=True)
    return _results(machine, results)


def _bind(machine: Machine, path: str, call: Call) -> tuple[Operator, dict[str, Value]]:
    try:
        operator = read_operator(path)
    except UnknownOperatorError as error:
        raise machine.refuse(f"operator {path}: {error}") from None
    if len(call.arguments) > len(operator.arguments) or not set(call.keywords) <= set(operator.arguments):
        raise machine.refuse(f"operator {path} with arguments that its schema does not have")
    return operator, {**dict(zip(operator.arguments, call.arguments, strict=False)), **call.keywords}


def _result(machine: Machine, returned: Returned, given: Mapping[str, Value]) -> Value:
    if not returned.tensor:
        return Constant()
    aliased = tuple(storages_of(*(given[name] for name in returned.arguments if name in given)))
    own = machine.allocate().storages if returned.fresh else ()
    return Tensor(aliased + own)


def _results(machine: Machine, results: list[Value]) -> Value:
    if not results:
        return Constant()
    return results[0] if len(results) == 1 else machine.heap.bundle(results)


def _collective(machine: Machine, call: Call) -> Value:
    path = call.path.removeprefix("torch.ops.")
    operator, given = _bind(machine, path, call)
    if path.split(".")[1] == "wait_tensor":
        machine.finish_collective(call.arguments[0])
        return call.arguments[0]
    written = tuple(value for name, value in given.items() if name in operator.written)
    results = [_result(machine, returned, given) for returned in operator.returns]
    machine.start_collective(f"torch.ops.{path}", call.values, (*written, *results))
    return _results(machine, results)


_Handler = Callable[[Machine, Call], Value]

_GUARDS = "torch._C._dynamo.guards."
_FUNCTIONS: dict[str, _Handler] = {
    f"{_GUARDS}_empty_strided_cuda": _allocate,
    "torch.empty_strided": _allocate,
    "torch.empty": _allocate,
    f"{_GUARDS}_reinterpret_tensor": _view,
    "torch.ops.inductor._alloc_from_pool": _view,
    f"{_GUARDS}copy_if_misaligned": _copy_if_misaligned,
    f"{_GUARDS}assert_size_stride": _nothing,
    f"{_GUARDS}assert_size_stride_grouped": _nothing,
    f"{_GUARDS}assert_alignment": _nothing,
    "torch._inductor.runtime.runtime_utils.assert_tensor_metadata": _nothing,
    "torch._inductor.hooks.run_intermediate_hooks": _hook,
    "torch.cuda._DeviceGuard": _device,
    "torch.cuda.set_device": _device,
    "torch._C._cuda_getCurrentRawStream": _raw_stream,
    "torch.cuda.current_stream": _current_stream,
    "graphstreams.runtime.streams.acquire": _acquire,
    "torch._dynamo.variables.streams._get_stream_by_index": _indexed_stream,
    "torch.Event": _new_event,
    "torch.cuda.Event": _new_event,
    "torch.cuda.synchronize": _synchronize,
    "torch.device": _pure,
    "torch._inductor.codegen.memory_planning._align": _pure,
    **{f"builtins.{name}": _pure for name in ("int", "float", "bool", "max", "min", "abs", "round", "pow")},
}
_FAMILIES: dict[str, _Handler] = {
    "math.": _pure,
    "torch.cuda.nvtx.": _pure,
    "torch.sym_": _pure,
    "torch._inductor.select_algorithm.extern_kernels.": _extern_kernel,
    "torch.ops.streams.": _stream_operator,
    "torch.ops._c10d_functional.": _collective,
    "torch.ops.": _operator,
}
