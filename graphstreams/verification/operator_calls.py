"""What library kernels, operators and collectives do."""

from __future__ import annotations

from collections.abc import Mapping

from graphstreams.verification.call import Call, refuse_sizes
from graphstreams.verification.machine import Machine
from graphstreams.verification.operators import Operator, Returned, UnknownOperatorError, read_operator
from graphstreams.verification.values import Constant, Size, Tensor, Value, storages_of


def extern_kernel(machine: Machine, call: Call) -> Value:
    """A library kernel: writes `out=`, or returns a tensor of its own."""
    name = "extern_kernels." + call.path.rpartition(".")[2]
    out = call.keywords.get("out")
    if out is None:
        _check_functional(machine, name)
    result = machine.allocate() if out is None else out
    # Library kernels take sizes in lists, if at all.
    refuse_sizes(machine, name, *(value for value in call.values if isinstance(value, Size)))
    reads = [*call.arguments, *(value for key, value in call.keywords.items() if key != "out")]
    machine.launch(name, reads, [result], scratch=True)
    return result


def _check_functional(machine: Machine, name: str) -> None:
    """Without `out=`, the library kernel must be the aten operator of its name, which writes no argument."""
    path = name.replace("extern_kernels.", "aten.")
    try:
        written = read_operator(path).written
    except UnknownOperatorError as error:
        raise machine.refuse(f"{name} without out=; operator {path}: {error}") from None
    if written:
        raise machine.refuse(f"{name}, which may write its arguments")


def operator(machine: Machine, call: Call) -> Value:
    """`torch.ops.namespace.name`: as its schema says."""
    path = call.path.removeprefix("torch.ops.")
    schema, given = _bind(machine, path, call)
    written = [value for name, value in given.items() if name in schema.written]
    results = [_result(machine, returned, given) for returned in schema.returns]
    fresh = [result for result, returned in zip(results, schema.returns, strict=True) if returned.fresh]
    machine.launch(f"torch.ops.{path}", call.values, [*written, *fresh], scratch=True)
    return _results(machine, results)


def _bind(machine: Machine, path: str, call: Call) -> tuple[Operator, dict[str, Value]]:
    try:
        schema = read_operator(path)
    except UnknownOperatorError as error:
        raise machine.refuse(f"operator {path}: {error}") from None
    if len(call.arguments) > len(schema.arguments) or not set(call.keywords) <= set(schema.arguments):
        raise machine.refuse(f"operator {path} with arguments that its schema does not have")
    given = {**dict(zip(schema.arguments, call.arguments, strict=False)), **call.keywords}
    refuse_sizes(machine, path, *(value for name, value in given.items() if name in schema.tensors))
    return schema, given


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


def collective(machine: Machine, call: Call) -> Value:
    """`torch.ops._c10d_functional`: starts a collective, or waits for one."""
    path = call.path.removeprefix("torch.ops.")
    schema, given = _bind(machine, path, call)
    if path.split(".")[1] == "wait_tensor":
        machine.finish_collective(call.arguments[0])
        return call.arguments[0]
    written = tuple(value for name, value in given.items() if name in schema.written)
    results = [_result(machine, returned, given) for returned in schema.returns]
    machine.start_collective(f"torch.ops.{path}", call.values, (*written, *results))
    return _results(machine, results)
