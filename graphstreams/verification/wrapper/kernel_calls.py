"""Read the launches of Triton kernels, of choices between several, and of C++ kernels on the host."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from graphstreams.verification.trace import HOST
from graphstreams.verification.triton.accesses import Parameter, TritonKernel
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import (
    Call,
    ConstantValue,
    GroupValue,
    RawStreamValue,
    TensorValue,
    Value,
    storages_of,
    use,
)


def call_kernels(
    machine: AbstractMachine, name: str, kernels: Sequence[tuple[TritonKernel, Sequence[slice]]], call: Call, scratch: bool
) -> None:
    """Launch one of several kernels, by `name.run(*arguments, stream=raw_stream)`, on the stream whose handle it is given.

    Each gets some slices of the arguments. What any of them reads or writes counts as read or written. With `scratch`, they may
    take memory from the allocator.
    """
    reads: list[Value] = []
    writes: list[Value] = []
    for kernel, parts in kernels:
        arguments = tuple(argument for part in parts for argument in call.arguments[part])
        for parameter, tensor in _tensors(machine, kernel, Call(call.path, arguments, call.keywords)):
            (writes if parameter.written else reads).append(tensor)
    machine.launch(name, reads, writes, scratch=scratch)


def call_host_kernel(machine: AbstractMachine, name: str, types: Sequence[str], call: Call) -> None:
    """Run a C++ kernel on the host, at once. It only reads what it takes as `const T*` (torch 2.15.0, `codegen/cpp.py`)."""
    pairs = list(zip(types, call.arguments, strict=False))
    fits = all(isinstance(a, TensorValue if kind.endswith("*") else ConstantValue) for kind, a in pairs)
    if not fits or len(types) != len(call.values) or call.keywords:
        raise machine.unsupported(f"the arguments of kernel {name} do not fit its signature")
    tensors = [(kind, a) for kind, a in pairs if isinstance(a, TensorValue)]
    for storage in storages_of(*(a for _, a in tensors)):
        if storage.on_device:
            raise machine.unsupported(f"kernel {name}, which runs on the host, is given a tensor of the GPU")
        storage.on_host = storage.used = True
    reads, writes = ([a for kind, a in tensors if kind.startswith("const ") == only] for only in (True, False))
    machine.launch(name, reads, writes, stream=HOST)


def _tensors(machine: AbstractMachine, kernel: TritonKernel, call: Call) -> list[tuple[Parameter, TensorValue]]:
    handle = call.keywords.get("stream")
    if not isinstance(handle, RawStreamValue):
        raise machine.unsupported(f"kernel {kernel.name} is not given a stream that came from get_raw_stream")
    if set(call.keywords) != {"stream"}:
        raise machine.unsupported(f"kernel {kernel.name} is called with keywords {sorted(call.keywords)}")
    if handle.number != machine.stream:
        raise machine.unsupported(f"kernel {kernel.name} is given the handle of a stream that is not the current one")
    if any(isinstance(argument, GroupValue) for argument in call.arguments):
        raise machine.unsupported(f"kernel {kernel.name} is given a tuple")
    parameters = _match(kernel, call.arguments)
    if parameters is None:
        pointers = (a for p, a in zip(kernel.parameters, call.arguments, strict=False) if p.pointer)
        machine.refuse_sizes(f"kernel {kernel.name}", *pointers)
        raise machine.unsupported(f"the arguments of kernel {kernel.name} do not fit its signature")
    pairs = [(p, a) for p, a in zip(parameters, call.arguments, strict=False) if isinstance(a, TensorValue)]
    use(*(argument for _, argument in pairs))
    if any(storage.on_host for _, argument in pairs for storage in argument.all):
        raise machine.unsupported(f"kernel {kernel.name} is given a tensor in host memory")
    return pairs


def _match(kernel: TritonKernel, arguments: tuple[Value, ...]) -> list[Parameter] | None:
    """Return the parameters that take the arguments, with or without the constants, which some launchers leave out."""
    everything = list(kernel.parameters)
    for parameters in (everything, [p for p in everything if p.kind not in ("constexpr", "")]):
        # What lacks an argument, or a parameter, has to be a number.
        pairs = itertools.zip_longest(parameters, arguments)
        if all(isinstance(a or ConstantValue(), TensorValue if p and p.pointer else ConstantValue) for p, a in pairs):
            return parameters
    return None
