"""Stand in for the modules that a generated wrapper imports, for one run, as far as wrappers use them (torch 2.15.0)."""

from __future__ import annotations

import builtins
import json
import re
import types
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from tests.support.text_mutants.stub_kernels import (
    Accesses,
    AsyncCompile,
    ExternKernels,
    Handle,
    Operators,
    Pools,
    TritonKernel,
)
from tests.support.text_mutants.stub_tensors import AuxStream, Device, Event, Layout, Stream, Tensor, require_tensors

_SIZE = re.compile(r"inputs\[\d+\](\.shape\[\d+\])?")
_REAL = {"math", "cmath", "os", "random", "tempfile", "ctypes"}


class _Anything:
    """A module of which nothing is used but names."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def namespace(device: Device, accesses: Accesses, misaligned: Callable[[], bool], streamed: bool) -> dict[str, Any]:
    """Return the globals to run a wrapper in. `misaligned` tells of each input that is checked whether it is copied, `streamed`
    which of two bodies runs.
    """
    modules = _modules(device, accesses, misaligned, streamed)

    def load(name: str, scope: Any = None, local: Any = None, names: tuple[str, ...] | None = (), level: int = 0) -> Any:
        if name in _REAL:
            return builtins.__import__(name, scope, local, names or (), level)
        return modules[name if names else name.partition(".")[0]]

    return {"__builtins__": {**vars(builtins), "__import__": load}, "__name__": "wrapper"}


def _modules(device: Device, accesses: Accesses, misaligned: Callable[[], bool], streamed: bool) -> Mapping[str, Any]:
    guards = _guards(device, misaligned)
    pools = Pools(device, AuxStream, Event)
    torch = types.SimpleNamespace(
        ops=Operators(device),
        cuda=types.SimpleNamespace(_DeviceGuard=_device_guard, set_device=_device_guard),
        _C=types.SimpleNamespace(
            _dynamo=types.SimpleNamespace(guards=guards),
            _distributed_c10d=_Anything(),
            _cuda_getCurrentRawStream=lambda index: Handle(device.current),
        ),
        device=lambda *args: args,
        empty_strided=_empty_strided(device),
        **{name: name for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")},
        **{name: name for name in ("float8_e4m3fn", "float8_e5m2")},
    )
    runtime = {
        "streams": types.SimpleNamespace(acquire_for_call=pools.acquire_for_call, join=_join),
        "dispatch": types.SimpleNamespace(runs_on_streams=_dispatch(streamed), settle=_settle, adopt=_settle),
        "verdicts": types.SimpleNamespace(announce=json.loads),
    }
    return {
        "torch": torch,
        "torch._C": torch._C,
        "torch._C._dynamo.guards": guards,
        "torch._dynamo.testing": types.SimpleNamespace(
            rand_strided=lambda *args, **kwargs: device.allocate(layout=Layout(*args))
        ),
        "torch._inductor.async_compile": types.SimpleNamespace(AsyncCompile=AsyncCompile(device, accesses)),
        "torch._inductor.codegen.memory_planning": _Anything(),
        "torch._inductor.hooks": types.SimpleNamespace(run_intermediate_hooks=None),
        "torch._inductor.runtime.runtime_utils": types.SimpleNamespace(assert_tensor_metadata=_check),
        "torch._inductor.runtime.triton_heuristics": _Anything(),
        "torch._inductor.select_algorithm": types.SimpleNamespace(extern_kernels=ExternKernels(device)),
        "torch._inductor.utils": _Anything(),
        "triton": _Anything(),
        "triton.language": _Anything(),
        **{f"graphstreams.runtime.{name}": module for name, module in runtime.items()},
    }


def _guards(device: Device, misaligned: Callable[[], bool]) -> types.SimpleNamespace:
    def copy_if_misaligned(tensor: Tensor) -> Tensor:
        require_tensors(tensor)
        return tensor.clone() if misaligned() else tensor

    def allocate(size: Any, stride: Any, dtype: Any) -> Tensor:
        if not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise TypeError("sizes and strides are tuples")
        return device.allocate(layout=Layout(size, stride))

    def view(tensor: Tensor, size: Any, stride: Any, offset: Any = 0) -> Tensor:
        require_tensors(tensor)
        start = None if tensor.layout is None else tensor.layout.offset
        return Tensor(tensor.storage, Layout(size, stride, None if start is None else start + offset))

    def grouped(several: tuple[Any, ...], sizes: Any, *args: Any) -> None:
        for each, size in zip(several, sizes, strict=True):
            asserted(each, size)

    def asserted(tensor: Any, size: Any, *args: Any) -> None:
        require_tensors(tensor)
        if tensor.layout is not None and tensor.layout.sizes != size:
            raise AssertionError(f"expected {size}, got {tensor.layout.sizes}")

    return types.SimpleNamespace(
        assert_size_stride=asserted,
        assert_size_stride_grouped=grouped,
        assert_alignment=_check,
        copy_if_misaligned=copy_if_misaligned,
        _empty_strided_cuda=allocate,
        _empty_strided_cpu=None,
        _empty_strided_cpu_pinned=None,
        _empty_strided_xpu=None,
        _empty_strided_mtia=None,
        _reinterpret_tensor=view,
    )


def _dispatch(streamed: bool) -> Callable[..., bool]:
    def runs_on_streams(
        inputs: Any, direct: bool, size: str | None = None, largest: int | None = None, smallest: int = 0
    ) -> bool:
        if size is not None and not _SIZE.fullmatch(size):  # the size of a stub is not known
            eval(size, {"inputs": inputs})
        return streamed

    return runs_on_streams


def _settle(*kernels: Any) -> None:
    if not all(isinstance(kernel, TritonKernel) for kernel in kernels):
        raise TypeError("only kernels have configurations")


def _empty_strided(device: Device) -> Callable[..., Tensor]:
    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: str = "cpu", pin_memory: bool = False) -> Tensor:
        if device == "cpu" and not pin_memory:
            raise RuntimeError("a copy to memory that is not pinned is waited for: not modelled")
        return gpu.allocate(on_host=device == "cpu")

    gpu = device
    return empty_strided


def _check(tensor: Any, *args: Any) -> None:
    require_tensors(tensor)


def _device_guard(index: int) -> Any:
    if index != 0:
        raise RuntimeError("no such device")
    return nullcontext()


def _join(caller: Stream, *streams: Stream) -> None:
    caller.device.current = caller.number
    for stream in streams:
        caller.wait_stream(stream)
