"""Stand in for Triton kernels, library kernels and operators: they only record what they read and write.

What a Triton kernel of Inductor's reads and writes is found by the text of its loads and stores, which name a parameter first;
what a user's kernel does is told by a table, what an operator does by another. Nothing of it asks this package.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.text_mutants.stub_collectives import NAMESPACE, STARTS, WAITS, Registry
from tests.support.text_mutants.stub_tensors import Device, Layout, Places, Stream, Tensor, require_tensors, tensors

Accesses = Mapping[str, tuple[Collection[str], Collection[str]]]


# --- Triton

_LOADS = re.compile(r"tl\.(?:load|atomic_\w+)\((\w+)")
_STORES = re.compile(r"tl\.(?:store|atomic_\w+)\((\w+)")


@dataclass(frozen=True)
class Signature:
    """The parameters of a kernel that a launch gives by position, and which of them are pointers."""

    function: str
    parameters: tuple[str, ...]
    pointers: frozenset[str]
    reads: frozenset[str]
    writes: frozenset[str]


@functools.cache
def signature_of(function: str, source: str) -> Signature:
    """Return the signature of the last function of that name in a kernel's source, which Inductor launches."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == function]
    definition = found[-1]
    types = _types(definition)
    names = [argument.arg for argument in definition.args.args]
    given = tuple(name for name in names if types.get(name, "constexpr") != "constexpr")
    pointers = frozenset(name for name in given if types[name].startswith("*"))
    text = ast.unparse(definition)
    reads = frozenset(_LOADS.findall(text))
    return Signature(function, given, pointers, reads & pointers, frozenset(_STORES.findall(text)) & pointers)


def _types(definition: ast.FunctionDef) -> dict[str, str]:
    for node in ast.walk(ast.Module(body=list(definition.decorator_list), type_ignores=[])):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "signature":
                    return dict(ast.literal_eval(value))
    raise ValueError(f"{definition.name} has no signature")


class TritonKernel:
    """What `async_compile.triton` returns."""

    def __init__(self, device: Device, signature: Signature, accesses: Accesses) -> None:
        self._device, self._signature = device, signature
        self._reads, self._writes = accesses.get(signature.function, (signature.reads, signature.writes))

    def run(self, *values: Any, stream: int) -> None:
        """Launch on the stream of that handle. Raises TypeError for arguments that no launcher takes."""
        signature = self._signature
        if not isinstance(stream, Handle) or len(values) < len(signature.parameters):
            raise TypeError(f"{signature.function}: arguments")
        given = dict(zip(signature.parameters, values, strict=False))
        for name, value in given.items():
            if isinstance(value, Tensor) is not (name in signature.pointers):
                raise TypeError(f"{signature.function}: {name}")
        if not all(isinstance(value, int) for value in values[len(given) :]):
            raise TypeError(f"{signature.function}: grid")
        reads, writes = [given[name] for name in self._reads], [given[name] for name in self._writes]
        self._device.launch(signature.function, reads, writes, stream)


class Handle(int):
    """A raw stream."""


class AsyncCompile:
    """Makes kernels from their sources."""

    def __init__(self, device: Device, accesses: Accesses) -> None:
        self._device, self._accesses = device, accesses

    def __call__(self) -> AsyncCompile:
        return self

    def triton(self, function: str, source: str, device_str: str = "cuda") -> TritonKernel:
        """Return a kernel."""
        return TritonKernel(self._device, signature_of(function, source), self._accesses)

    def wait(self, scope: dict[str, Any]) -> None:
        """Do nothing, because nothing is compiled."""


# --- library kernels

_LIBRARY = {"mm", "addmm", "bmm", "bmm_dtype", "baddbmm", "convolution", "_scaled_mm", "_int_mm"}


class ExternKernels:
    """`extern_kernels`."""

    def __init__(self, device: Device) -> None:
        for name in _LIBRARY:
            setattr(self, name, functools.partial(_library_kernel, device, name))


def _library_kernel(device: Device, name: str, *values: Any, out: Tensor | None = None, **named: Any) -> Tensor:
    if out is None:
        result = device.allocate()
    else:
        require_tensors(out)
        result = out
    require_tensors(*values[: 3 if name in ("addmm", "baddbmm") else 2])
    used = {tensor.storage.number for tensor in tensors([*values, *named.values()])}
    device.library_call(name, [values, named], [result], () if out is None else _places(name, values, out, used))
    return result


def _places(name: str, values: Sequence[Any], out: Tensor, used: Collection[int]) -> Places:
    """Return which places of its storage a product is written to, as far as that is known, and give `out` its sizes."""
    first = {"mm": 0, "bmm": 0, "_scaled_mm": 0, "addmm": 1, "baddbmm": 1}.get(name)
    if first is None:
        out.layout = None
        return ()
    left, right = (value.layout for value in values[first : first + 2])
    if left is None or right is None or out.layout is None:
        out.layout = None
        return ()
    sizes = (*left.sizes[:-1], right.sizes[-1])
    if sizes != out.layout.sizes:
        # As torch does, which only warns.
        strides = tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
        out.layout = Layout(sizes, strides, out.layout.offset)
        out.storage.resized = True
    places = out.layout.places()
    return () if places is None or out.storage.number in used else ((out.storage.number, places),)


# --- operators


@dataclass(frozen=True)
class Operator:
    """What an operator does: which arguments it writes, by position, and how many new tensors it returns."""

    tensors: int = 1  # its first arguments, which have to be tensors
    writes: tuple[int, ...] = ()
    results: int = 1
    sequence: type | None = None  # what they are returned in
    views: bool = False  # they are of the arguments' memory


OPERATORS: Mapping[str, Operator] = {
    "aten.topk.default": Operator(results=2, sequence=tuple),
    "aten.sort.default": Operator(results=2, sequence=tuple),
    "aten.sort.stable": Operator(results=2, sequence=tuple),
    "aten.split_copy.Tensor": Operator(results=2, sequence=list),
    # Training: the running mean and variance are written, though the schema does not say so.
    "aten.native_batch_norm.default": Operator(writes=(3, 4), results=3, sequence=tuple),
    "aten.reshape.default": Operator(views=True),
    "aten.contiguous.default": Operator(views=True),
    "inductor._reinterpret_tensor.default": Operator(views=True),
    "inductor._alloc_from_pool.default": Operator(views=True),
    "aten.split.Tensor": Operator(results=2, sequence=list, views=True),
    "aten.chunk.default": Operator(results=2, sequence=list, views=True),
    "aten.meshgrid.default": Operator(tensors=0, results=2, sequence=list, views=True),
    "text_mutants.halves.default": Operator(results=2, sequence=list),
    "graphstreams_tests.split_signs.default": Operator(results=2, sequence=tuple),
    "graphstreams_tests.append_row.default": Operator(tensors=2, writes=(0,), results=0),
}
_COLLECTIVES = {f"{NAMESPACE}.{name}.default" for name in (*STARTS, *WAITS)}
_PARTS = {"_quantized", *(path.rsplit(".", i)[0] for path in (*OPERATORS, *_COLLECTIVES) for i in range(3))}


class Operators:
    """`torch.ops`, or a part of it."""

    def __init__(self, device: Device, path: str = "", collectives: Registry | None = None) -> None:
        self._device, self._path, self._collectives = device, path, collectives or Registry(device)

    def __getattr__(self, name: str) -> Operators:
        path = f"{self._path}.{name}" if self._path else name
        if path in _PARTS:
            return Operators(self._device, path, self._collectives)
        raise AttributeError(path)

    def __call__(self, *values: Any, **named: Any) -> Any:
        if self._path.startswith(f"{NAMESPACE}."):
            return self._collectives.call(self._path.split(".")[1], values, named)
        # An operator without an overload's name is its default.
        operator = OPERATORS.get(self._path) or OPERATORS[f"{self._path}.default"]
        require_tensors(*values[: operator.tensors])
        if operator.views:
            given = list(tensors(values))
            results = [Tensor(given[min(i, len(given) - 1)].storage) for i in range(operator.results)]
        else:
            results = [self._device.allocate() for _ in range(operator.results)]
            written = [value for i, value in enumerate(values) if i in operator.writes]
            self._device.library_call(self._path, [values, named], [*tensors(written), *results])
        if operator.sequence is None:
            return results[0] if results else None
        return operator.sequence(results)


# --- streams


class Pools:
    """`graphstreams.runtime.streams`: by priority the aux streams, and events, of the caller's stream, the same each time."""

    def __init__(self, device: Device, stream: Callable[[Device, int], Stream], event: Callable[[Device], Any]) -> None:
        self._device, self._stream, self._event = device, stream, event
        self._pools: dict[int, tuple[list[Stream], list[Any]]] = {}
        self._count = 0
        self._caller = Stream(device, 0)

    def acquire_for_call(self, device: int, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
        """Return the caller's stream, aux streams and events."""
        if device != 0 or self._device.current != 0:
            raise RuntimeError("only the caller's stream of the first GPU is modelled")
        own, marks = self._pools.setdefault(priority, ([], []))
        while len(own) < streams:
            self._count += 1
            own.append(self._stream(self._device, self._count))
        while len(marks) < events:
            marks.append(self._event(self._device))
        return (self._caller, *own[:streams], *marks[:events])
