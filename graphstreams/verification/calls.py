"""What each function does that a wrapper may call: the names that Inductor's code generation writes (torch 2.15.0).

A function that is not in one of these tables has no known effect, and the wrapper that calls it is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from graphstreams.verification import operator_calls, stream_calls
from graphstreams.verification.call import Call, all_constant, describe, refuse_sizes, refuse_tensors
from graphstreams.verification.machine import Machine
from graphstreams.verification.values import Bundle, Constant, Event, Stream, Tensor, Value


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
        return stream_calls.stream_method(machine, of, call)
    if isinstance(of, Bundle) and call.path == "clear" and not call.values:
        machine.heap.clear(of)
        return Constant()
    refuse_sizes(machine, f"the method {call.path}", of)
    if isinstance(of, Constant) and all_constant(call):
        return Constant()
    raise machine.refuse(f"the method {call.path} of {describe(of)}")


# --- memory


def _allocate(machine: Machine, call: Call) -> Value:
    refuse_tensors(machine, call)
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
        refuse_tensors(machine, call)
        return tensor
    if call.path in _SIZES:
        return Constant()
    if call.path in _FILLS:
        if call.path == "copy_":
            refuse_sizes(machine, "the method copy_", *call.values)
        machine.launch(f"tensor.{call.path}", call.values, [tensor], scratch=True)
        return tensor
    if call.path == "item":
        # The host waits for the value of a CUDA tensor; a CPU tensor's is there, and orders nothing. Which of them it is
        # the source does not tell.
        machine.launch("tensor.item", [tensor], [])
        return Constant()
    if call.path == "clone":
        clone = machine.allocate()
        machine.launch("tensor.clone", [tensor], [clone])
        return clone
    raise machine.refuse(f"the method {call.path} of a tensor")


# --- things with no effect on memory or streams


def _check(machine: Machine, call: Call) -> Value:
    refuse_sizes(machine, call.path, *call.arguments[:1])
    return Constant()


def _pure(machine: Machine, call: Call) -> Value:
    refuse_tensors(machine, call)
    return Constant()


def _hook(machine: Machine, call: Call) -> Value:
    refuse_sizes(machine, call.path, *call.values)
    machine.launch("run_intermediate_hooks", call.values, [], scratch=True)
    return Constant()


_Handler = Callable[[Machine, Call], Value]

_GUARDS = "torch._C._dynamo.guards."
_FUNCTIONS: dict[str, _Handler] = {
    f"{_GUARDS}_empty_strided_cuda": _allocate,
    "torch.empty_strided": _allocate,
    "torch.empty": _allocate,
    f"{_GUARDS}_reinterpret_tensor": _view,
    "torch.ops.inductor._alloc_from_pool": _view,
    f"{_GUARDS}copy_if_misaligned": _copy_if_misaligned,
    f"{_GUARDS}assert_size_stride": _check,
    f"{_GUARDS}assert_size_stride_grouped": _check,
    f"{_GUARDS}assert_alignment": _check,
    "torch._inductor.runtime.runtime_utils.assert_tensor_metadata": _check,
    "torch._inductor.hooks.run_intermediate_hooks": _hook,
    "torch.cuda._DeviceGuard": stream_calls.device,
    "torch.cuda.set_device": stream_calls.device,
    "torch._C._cuda_getCurrentRawStream": stream_calls.raw_stream,
    "torch.cuda.current_stream": stream_calls.current_stream,
    "graphstreams.runtime.streams.acquire_for_call": stream_calls.acquire,
    "torch._dynamo.variables.streams._get_stream_by_index": stream_calls.indexed_stream,
    "torch.Event": stream_calls.new_event,
    "torch.cuda.Event": stream_calls.new_event,
    "torch.cuda.synchronize": stream_calls.synchronize,
    "torch.device": _pure,
    "torch._inductor.codegen.memory_planning._align": _pure,
    **{f"builtins.{name}": _pure for name in ("int", "float", "bool", "max", "min", "abs", "round", "pow")},
}
_FAMILIES: dict[str, _Handler] = {
    "math.": _pure,
    "torch.cuda.nvtx.": _pure,
    "torch.sym_": _pure,
    "torch._inductor.select_algorithm.extern_kernels.": operator_calls.extern_kernel,
    "torch.ops.streams.": stream_calls.stream_operator,
    "torch.ops._c10d_functional.": operator_calls.collective,
    "torch.ops.": operator_calls.operator,
}
