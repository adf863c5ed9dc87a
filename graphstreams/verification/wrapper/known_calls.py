"""What each function and method does that Inductor's code generation writes, streams and operators aside.

A function that is not in `_FUNCTIONS` or `PURE`, and a tensor's method that is not in `_METHODS`, has no known effect, and the
wrapper that calls it is refused. Read in torch 2.14.1 and 2.15.0: `_inductor/codegen/wrapper.py`,
`codegen/memory_planning.py`, `_inductor/ir.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from graphstreams.verification.trace import HOST
from graphstreams.verification.wrapper import operator_calls, sizes_told, stream_calls
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    MOST_COPIES,
    NOTHING,
    Call,
    ConstantValue,
    TensorValue,
    Value,
    computed,
    holds_tensors,
    use,
)
from graphstreams.verification.wrapper.names import GUARDS


def call_path(machine: AbstractMachine, call: Call, taken: tuple[int, ...]) -> Value:
    """Call a function that was imported. `taken` are the items taken of its result."""
    if call.path in PURE:
        _without_tensors(machine, call)
        operator_calls.refuse_streams(machine, call.path, *call.values)
        return computed(*call.values)
    if handler := _FUNCTIONS.get(call.path):
        return handler(machine, call)
    if call.path.startswith("torch.ops."):
        return operator_calls.operator(machine, call, taken)
    if call.path.startswith(_EXTERN):
        return operator_calls.extern_kernel(machine, call, taken)
    raise machine.unsupported(f"a call of {call.path}, {_REASONS.get(call.path, 'whose effects are not known')}")


# --- memory


def _allocate(machine: AbstractMachine, call: Call) -> Value:
    _without_tensors(machine, call)
    made = machine.allocate(on_host="_cpu" in call.path)
    made.storages[0].on_device = not made.storages[0].on_host
    return sizes_told.allocated(made, call)


def _without_tensors(machine: AbstractMachine, call: Call) -> Value:
    """Check that there is no tensor among the arguments, which is all that marks of ranges need."""
    if holds_tensors(*call.values):
        raise machine.unsupported(f"{call.path} with tensors among its arguments")
    return NOTHING


def _tensor_in(machine: AbstractMachine, call: Call) -> TensorValue:
    """Return the tensor that a call is given first."""
    machine.refuse_sizes(call.path, *call.arguments[:1])
    tensor = call.arguments[0] if call.arguments else None
    if not isinstance(tensor, TensorValue):
        raise machine.unsupported(f"{call.path} of something that is not a tensor")
    use(tensor)
    return tensor


def _view(machine: AbstractMachine, call: Call) -> Value:
    tensor = _tensor_in(machine, call)
    _without_tensors(machine, Call(call.path, call.arguments[1:], call.keywords))
    return sizes_told.view(tensor, call) if call.path == REINTERPRET else tensor.any_view


def _copy_if_misaligned(machine: AbstractMachine, call: Call) -> Value:
    """Return the tensor itself or a copy. If it is a copy, only other names still hold the tensor."""
    original = _tensor_in(machine, call)
    if len(call.values) != 1 or original.all[0].on_host:
        raise machine.unsupported("copy_if_misaligned of other than one tensor")
    if len(original.all) > MOST_COPIES:
        raise machine.unsupported("copy_if_misaligned of a copy of a copy, and so on")
    clone = machine.allocate(f"the aligned copy of {next(iter(original.all[0].names), 'a tensor')}")
    machine.launch("copy_if_misaligned", [original], [clone])
    return TensorValue(clone.storages, original.all, original.sizes)


def _check(machine: AbstractMachine, call: Call) -> Value:
    machine.refuse_sizes(call.path, *call.arguments[:1])
    use(*call.arguments[:1])
    return NOTHING


# --- methods of tensors


def tensor_method(machine: AbstractMachine, tensor: TensorValue, call: Call) -> Value:
    """Call a method of a tensor. Its name is `call.path`."""
    machine.refuse_sizes(f"the method {call.path}", *(call.values if call.path == "copy_" else ()))
    use(tensor)
    if call.path != "copy_":
        _without_tensors(machine, call)
    if handler := _METHODS.get(call.path):
        return handler(machine, tensor, call)
    raise machine.unsupported(f"the method {call.path} of a tensor")


def _fill(machine: AbstractMachine, tensor: TensorValue, call: Call) -> Value:
    machine.run(f"tensor.{call.path}", [], [tensor])
    return NOTHING


def _copy(machine: AbstractMachine, tensor: TensorValue, call: Call) -> Value:
    """Copy by `to.copy_(source, non_blocking)`, on the current stream. The host waits unless the copy may be non-blocking."""
    source = _tensor_in(machine, call)
    if call.keywords or not 1 <= len(call.arguments) <= 2:
        raise machine.unsupported("the method copy_ of a tensor with these arguments")
    to_host, from_host = ({storage.on_host for storage in value.all} for value in (tensor, source))
    if to_host == from_host == {True}:
        machine.run("tensor.copy_", [source], [tensor])
        return NOTHING
    machine.launch("tensor.copy_", [source], [tensor], scratch=True)
    waits = len(call.arguments) == 1 or call.constant(1) is False
    if waits and to_host == {True}:
        machine.synchronize_stream(machine.stream)
    for storage in () if waits else tensor.all:
        storage.copy_pending = not storage.on_device
    return NOTHING


def _item(machine: AbstractMachine, tensor: TensorValue, call: Call) -> Value:
    """Read a number: of host memory at once, else on the current stream. The source does not always tell which it is."""
    on_host = [TensorValue((storage,)) for storage in tensor.all if storage.on_host or storage.copy_pending]
    on_device = [TensorValue((storage,)) for storage in tensor.all if not storage.on_host]
    if on_host:
        machine.launch("tensor.item", on_host, [], stream=HOST)
    if on_device:
        machine.launch("tensor.item", on_device, [])
    return ConstantValue()


def _clone(machine: AbstractMachine, tensor: TensorValue, call: Call) -> Value:
    if any(storage.on_host for storage in tensor.all):
        raise machine.unsupported("the method clone of a tensor in host memory")
    clone = machine.allocate()
    machine.launch("tensor.clone", [tensor], [clone])
    return clone


_METHODS: dict[str, Callable[[AbstractMachine, TensorValue, Call], Value]] = {
    **dict.fromkeys(("as_strided", "t"), lambda machine, tensor, call: tensor.any_view),
    **dict.fromkeys(("size", "stride"), lambda machine, tensor, call: ConstantValue()),
    **dict.fromkeys(("zero_", "fill_"), _fill),
    "copy_": _copy,
    "item": _item,
    "clone": _clone,
}

REINTERPRET = f"{GUARDS}_reinterpret_tensor"
_EXTERN = "torch._inductor.select_algorithm.extern_kernels."
PURE = {
    "torch.device", "torch._inductor.codegen.memory_planning._align", "torch.sym_not", "torch.sym_max", "torch.sym_min",
    *(f"math.{name}" for name in ("floor", "ceil", "trunc", "sqrt", "log2", "log", "pow", "inf", "nan", "exp", "sin", "cos")),
    *(f"builtins.{name}" for name in ("int", "float", "bool", "max", "min", "abs", "round", "pow")),
}  # fmt: skip
_REASONS = {
    "torch._inductor.hooks.run_intermediate_hooks": "with which the setting generate_intermediate_hooks runs functions that "
    "only the process knows",
    "torch._inductor.runtime.triton_heuristics.start_graph": "with which the setting profile_bandwidth times every kernel",
}
_FUNCTIONS: dict[str, stream_calls.CallHandler] = {
    **dict.fromkeys((f"{GUARDS}_empty_strided_{kind}" for kind in ("cuda", "cpu", "cpu_pinned")), _allocate),
    REINTERPRET: _view,
    "torch.ops.inductor._alloc_from_pool": _view,
    "triton.tools.tensor_descriptor.TensorDescriptor.from_tensor": _view,
    f"{GUARDS}copy_if_misaligned": _copy_if_misaligned,
    **dict.fromkeys((f"{GUARDS}assert_{what}" for what in ("size_stride", "size_stride_grouped", "alignment")), _check),
    "torch._inductor.runtime.runtime_utils.assert_tensor_metadata": _check,
    **dict.fromkeys(("torch.cuda.nvtx.range_push", "torch.cuda.nvtx.range_pop"), _without_tensors),
    **stream_calls.FUNCTIONS,
}
