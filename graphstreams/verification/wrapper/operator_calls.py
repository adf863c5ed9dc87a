"""What library kernels, operators and collectives do: the lists of those that are known, and how their calls are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphstreams.verification.wrapper import sizes_told
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    MOST_COPIES,
    NOTHING,
    AnyStreamValue,
    Call,
    ConstantValue,
    GroupValue,
    TensorValue,
    Value,
    constants_of,
    holds_tensors,
    use,
)
from graphstreams.verification.wrapper.operator_schemas import OperatorSchema, Returned, UnknownOperatorError, read_operator
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
_WAITS = {"wait_tensor", "wait_tensors"}


def refuse_streams(machine: AbstractMachine, what: str, *values: Value) -> None:
    """Raise UnreadableWrapper if a stream or an event is among the arguments of `what`."""
    if any(isinstance(value, AnyStreamValue) for value in values):
        raise machine.unsupported(f"{what} with a stream or an event among its arguments")


def extern_kernel(machine: AbstractMachine, call: Call, taken: tuple[int, ...]) -> Value:
    """Call a library kernel, which writes `out=`, or else is the aten operator of its name and writes no argument."""
    name = call.path.rpartition(".")[2]
    kernel = f"extern_kernels.{name}"
    out = call.keywords.get("out")
    # Library kernels take sizes in lists, if at all.
    machine.refuse_sizes(kernel, *(value for value in call.values if isinstance(value, ConstantValue)))
    if out is None:
        schema = _schema(machine, f"aten.{name}", f"{kernel} without out=; ")
        if schema.written or schema.returns != (Returned("tensor"),):
            raise machine.unsupported(f"{kernel}, which may write its arguments, or gives no new tensor")
        return _apply(machine, kernel, f"aten.{name}", schema, call, taken)
    if name not in _WITH_OUT or not isinstance(out, TensorValue):
        raise machine.unsupported(f"a call of {kernel} with out=, which is not known")
    refuse_streams(machine, kernel, *call.values)
    use(*call.values)
    reads = [*call.arguments, *(value for key, value in call.keywords.items() if key != "out")]
    machine.run(kernel, reads, [out], sizes_told.part_written(name, call, out))
    return NOTHING


def operator(machine: AbstractMachine, call: Call, taken: tuple[int, ...]) -> Value:
    """Call the operator `torch.ops.namespace.name.overload`, which does what its schema says."""
    path = call.path.removeprefix("torch.ops.")
    if path.startswith("streams."):
        return stream_operator(machine, call)
    return _apply(machine, call.path, path, _schema(machine, path), call, taken)


def _schema(machine: AbstractMachine, path: str, caller: str = "") -> OperatorSchema:
    try:
        return read_operator(path)
    except UnknownOperatorError as error:
        raise machine.unsupported(f"{caller}operator {path}: {error}") from None


def _apply(machine: AbstractMachine, name: str, path: str, schema: OperatorSchema, call: Call, taken: tuple[int, ...]) -> Value:
    call = _without_objects(machine, path, schema, call)
    given = _bind(machine, path, schema, call)
    use(*call.values)
    collective = path.startswith("_c10d_functional.")
    if collective and path.split(".")[1] in _WAITS:
        return _wait(machine, name, given, call)
    if collective and path.split(".")[1] not in _COLLECTIVES:
        raise machine.unsupported(f"a call of {path}, whose effects are not known")
    written = tuple(value for argument, value in given.items() if argument in schema.written)
    # An operator of aten resizes what it is given by keyword, as `out`; of others nothing is known.
    resizable = call.keywords if path.startswith("aten.") else given
    sizes_told.may_resize(*(value for argument, value in resizable.items() if argument in schema.written))
    results = [_result(machine, returned, given, taken) for returned in schema.returns]
    made = zip(results, schema.returns, strict=True)
    fresh = tuple(_without_argument(result) for result, returned in made if returned.copied or not returned.argument)
    if collective:
        machine.start_collective(name, call.values, (*written, *fresh), constants_of(*call.values))
    else:
        machine.run(name, call.values, [*written, *fresh])
    if not results:
        return NOTHING
    return results[0] if len(results) == 1 else machine.heap.sequence(results)


def _wait(machine: AbstractMachine, name: str, given: Mapping[str, Value], call: Call) -> Value:
    """Wait for the collectives that write a tensor, or a list of tensors, and return it."""
    if len(given) != 1 or not holds_tensors(*given.values()):
        raise machine.unsupported(f"{name} of what is not a tensor or a list of tensors")
    (awaited,) = given.values()
    machine.finish_collective(name, awaited)
    return machine.heap.sequence(list(awaited.items)) if isinstance(awaited, GroupValue) else awaited


def _without_objects(machine: AbstractMachine, path: str, schema: OperatorSchema, call: Call) -> Call:
    """Return the call with constants in place of the inputs that it takes for Python objects, as its schema says."""
    if not schema.objects:
        return call

    def known(name: str, value: Value) -> Value:
        if name not in schema.objects or not isinstance(value, TensorValue):
            return value
        machine.take_for_object(f"operator {path} with a tensor for {name}, which is none", value)
        return ConstantValue()

    positional = (*schema.arguments, *([""] * len(call.arguments)))
    arguments = tuple(known(name, value) for name, value in zip(positional, call.arguments, strict=False))
    return replace(call, arguments=arguments, keywords={name: known(name, value) for name, value in call.keywords.items()})


def _bind(machine: AbstractMachine, path: str, schema: OperatorSchema, call: Call) -> dict[str, Value]:
    """Return the arguments by the schema's names. Raises UnreadableWrapper for a tensor where it has none, or the reverse."""
    positional = dict(zip(schema.arguments, call.arguments, strict=False))
    surplus = len(call.arguments) > len(schema.arguments) or not set(call.keywords) <= set(schema.arguments)
    if surplus or positional.keys() & call.keywords.keys():
        raise machine.unsupported(f"operator {path} with arguments that its schema does not have")
    given = {**positional, **call.keywords}
    machine.refuse_sizes(path, *(value for name, value in given.items() if name in schema.tensors))
    refuse_streams(machine, f"operator {path}", *call.values)
    for name, value in given.items():
        if name not in schema.tensors and holds_tensors(value):
            raise machine.unsupported(f"operator {path} with a tensor for {name}, which is none")
    if given.get("non_blocking", ConstantValue(False)) != ConstantValue(False):
        raise machine.unsupported(f"operator {path}, which the host does not wait for")
    return given


def _result(machine: AbstractMachine, returned: Returned, given: Mapping[str, Value], taken: tuple[int, ...]) -> Value:
    if returned.kind == "number":
        return ConstantValue()
    listed = given.get(returned.argument)
    if returned.kind == "list" and isinstance(listed, GroupValue):  # the list that it was given, changed in place
        return machine.heap.sequence(list(listed.items))
    if returned.kind == "list":
        places = (*taken, -1)
        return machine.heap.sequence([_tensor(machine, returned, given) for _ in places], places)
    return _tensor(machine, returned, given)


def _tensor(machine: AbstractMachine, returned: Returned, given: Mapping[str, Value]) -> TensorValue:
    """Return a new tensor, or a view of the argument that the operator gives a view of, or perhaps a copy of."""
    if not returned.argument:
        return machine.allocate()
    value = given.get(returned.argument)
    if not isinstance(value, TensorValue):
        raise machine.unsupported(f"an operator that gives its {returned.argument}, which is not a tensor")
    if not returned.copied:
        return value.any_view
    if len(value.all) > MOST_COPIES:
        raise machine.unsupported("a copy of a copy, and so on")
    return TensorValue(machine.allocate().storages, value.all)


def _without_argument(result: Value) -> Value:
    """Return the new memory of a result, which the operator writes, without the argument's, of which it may be a view."""
    return TensorValue(result.storages) if isinstance(result, TensorValue) else result
