"""What library kernels, operators and collectives do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    NOTHING,
    Call,
    Constant,
    Event,
    Group,
    RawStream,
    Stream,
    Tensor,
    Value,
    storages_of,
)
from graphstreams.verification.wrapper.operator_schemas import Operator, Returned, UnknownOperatorError, read_operator
from graphstreams.verification.wrapper.stream_calls import stream_operator

# Library kernels that Inductor calls with `out=` (torch 2.14.1 and 2.15.0, `_inductor/kernel/*.py`, ExternKernelChoice).
_WITH_OUT = {
    "mm", "mm_dtype", "addmm", "bias_addmm", "_int_mm", "_scaled_mm", "_scaled_mm_v2", "scaled_mm_with_output_scale", "bmm",
    "bmm_dtype", "baddbmm", "mm_plus_mm", "_mm_plus_mm", "conv1x1_via_mm", "call_aten_dw", "call_aten_dx",
}  # fmt: skip
_COLLECTIVES = {
    "all_reduce", "all_reduce_", "all_reduce_coalesced", "all_reduce_coalesced_", "all_gather_into_tensor",
    "all_gather_into_tensor_out", "all_gather_into_tensor_coalesced", "reduce_scatter_tensor", "reduce_scatter_tensor_out",
    "reduce_scatter_tensor_coalesced", "all_to_all_single", "broadcast", "broadcast_",
}  # fmt: skip


def use(*values: Value) -> Tensor:
    """Note that what is given is used as tensors, not as sizes; the first is given back."""
    for storage in storages_of(*values):
        storage.used = True
    return values[0]  # type: ignore[return-value]


def sizes_in(*values: Value) -> Iterator[str]:
    """The names of inputs that were taken for sizes, through lists."""
    for value in values:
        if isinstance(value, Group):
            yield from sizes_in(*value.items)
        elif isinstance(value, Constant) and value.name:
            yield value.name


def refuse_sizes(machine: AbstractMachine, what: str, *values: Value) -> None:
    """Raise where an input that was taken for a size stands where a tensor is expected."""
    for name in sizes_in(*values):
        raise machine.unsupported(f"{what} takes {name} for a tensor, an input whose name is one of a size")


def _refuse_streams(machine: AbstractMachine, what: str, *values: Value) -> None:
    if any(isinstance(value, Stream | RawStream | Event) for value in values):
        raise machine.unsupported(f"{what} with a stream or an event among its arguments")


def extern_kernel(machine: AbstractMachine, call: Call, taken: tuple[int, ...]) -> Value:
    """A library kernel: writes `out=`, or is the aten operator of its name, which writes no argument."""
    name = call.path.rpartition(".")[2]
    kernel = f"extern_kernels.{name}"
    out = call.keywords.get("out")
    # Library kernels take sizes in lists, if at all.
    refuse_sizes(machine, kernel, *(value for value in call.values if isinstance(value, Constant)))
    if out is None:
        return _functional(machine, name, call, taken)
    if name not in _WITH_OUT or not isinstance(out, Tensor):
        raise machine.unsupported(f"a call of {kernel} with out=, which is not known")
    _refuse_streams(machine, kernel, *call.values)
    use(*call.values)
    reads = [*call.arguments, *(value for key, value in call.keywords.items() if key != "out")]
    machine.run(kernel, reads, [out])
    return NOTHING


def _functional(machine: AbstractMachine, name: str, call: Call, taken: tuple[int, ...]) -> Value:
    try:
        schema = read_operator(f"aten.{name}")
    except UnknownOperatorError as error:
        raise machine.unsupported(f"extern_kernels.{name} without out=; operator aten.{name}: {error}") from None
    if schema.written or schema.returns != (Returned("tensor"),):
        raise machine.unsupported(f"extern_kernels.{name}, which may write its arguments, or gives no new tensor")
    return _apply(machine, f"extern_kernels.{name}", f"aten.{name}", schema, call, taken)


def operator(machine: AbstractMachine, call: Call, taken: tuple[int, ...]) -> Value:
    """`torch.ops.namespace.name.overload`: as its schema says."""
    path = call.path.removeprefix("torch.ops.")
    if path.startswith("streams."):
        return stream_operator(machine, call)
    try:
        schema = read_operator(path)
    except UnknownOperatorError as error:
        raise machine.unsupported(f"operator {path}: {error}") from None
    return _apply(machine, call.path, path, schema, call, taken)


def _apply(machine: AbstractMachine, name: str, path: str, schema: Operator, call: Call, taken: tuple[int, ...]) -> Value:
    given = _bind(machine, path, schema, call)
    use(*call.values)
    collective = path.startswith("_c10d_functional.")
    if collective and path.split(".")[1] == "wait_tensor":
        machine.finish_collective(call.arguments[0])
        return call.arguments[0]
    if collective and path.split(".")[1] not in _COLLECTIVES:
        raise machine.unsupported(f"a call of {path}, whose effects are not known")
    written = tuple(value for argument, value in given.items() if argument in schema.written)
    results = [_result(machine, returned, given, taken) for returned in schema.returns]
    fresh = tuple(result for result, returned in zip(results, schema.returns, strict=True) if not returned.argument)
    if collective:
        machine.start_collective(name, call.values, (*written, *fresh))
    else:
        machine.run(name, call.values, [*written, *fresh])
    if not results:
        return NOTHING
    return results[0] if len(results) == 1 else machine.heap.bundle(results)


def _bind(machine: AbstractMachine, path: str, schema: Operator, call: Call) -> dict[str, Value]:
    """By the schema's names, what the call gives: tensors where it has tensors, numbers where it has none."""
    positional = dict(zip(schema.arguments, call.arguments, strict=False))
    surplus = len(call.arguments) > len(schema.arguments) or not set(call.keywords) <= set(schema.arguments)
    if surplus or positional.keys() & call.keywords.keys():
        raise machine.unsupported(f"operator {path} with arguments that its schema does not have")
    given = {**positional, **call.keywords}
    refuse_sizes(machine, path, *(value for name, value in given.items() if name in schema.tensors))
    _refuse_streams(machine, f"operator {path}", *call.values)
    for name, value in given.items():
        if name not in schema.tensors and any(True for _ in storages_of(value)):
            raise machine.unsupported(f"operator {path} with a tensor for {name}, which is none")
    if given.get("non_blocking", Constant(False)) != Constant(False):
        raise machine.unsupported(f"operator {path}, which the host does not wait for")
    return given


def _result(machine: AbstractMachine, returned: Returned, given: Mapping[str, Value], taken: tuple[int, ...]) -> Value:
    if returned.kind == "other":
        return Constant()
    if returned.argument:
        value = given.get(returned.argument)
        if not isinstance(value, Tensor):
            raise machine.unsupported(f"an operator that gives its {returned.argument}, which is not a tensor")
        return value
    if returned.kind == "list":
        places = (*taken, -1)
        return machine.heap.bundle([machine.allocate() for _ in places], places)
    return machine.allocate()
