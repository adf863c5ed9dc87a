"""Compile for a GPU that this machine lacks: the one place that replaces functions of torch.

`offline(device)` answers the device queries of Dynamo, AOTAutograd and Inductor with the description of a GPU, for as
long as the context lasts. Inside it, fake CUDA tensors go through torch.compile up to the generated wrapper; nothing
can run. Read in torch 2.15.0: `_dynamo/device_interface.py`, `_inductor/runtime/hints.py`, `utils/_triton.py`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from graphstreams.ir.devices import Device

# Settings that run kernels while a graph is compiled, to time them or (freezing) to fold what weights make. Padding does too,
# but is on by default.
_RUNNING = (
    "max_autotune", "max_autotune_gemm", "benchmark_fusion", "benchmark_combo_kernel", "triton.autotune_at_compile_time",
    "freezing",
)  # fmt: skip


def has_gpu() -> bool:
    """Whether a real CUDA device can be used."""
    return torch.cuda.is_available()


@contextlib.contextmanager
def offline(device: Device) -> Iterator[None]:
    """Within this context torch believes that `device` is there as cuda:0. For tracing and lowering only.

    Raises RuntimeError where torch was built without CUDA, whose code generation is then missing too.
    """
    if torch.version.cuda is None:
        raise RuntimeError("planning for a GPU needs a CUDA build of torch; this one is CPU-only (pip install torch)")
    with contextlib.ExitStack() as stack:
        _warm_pattern_tables()
        # Other modules hold some of these functions by name, with what they found out when there was no device.
        _clear_device_caches()
        stack.callback(_clear_device_caches)
        for owner, name, value in _replacements(device):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_inductor_settings())
        _clear_device_caches()
        stack.callback(_clear_device_caches)
        yield


def _properties(device: Device) -> Any:
    return SimpleNamespace(
        name=device.name,
        major=device.capability[0],
        minor=device.capability[1],
        multi_processor_count=device.sm_count,
        total_memory=device.memory,
        L2_cache_size=device.l2,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048 if device.capability != (8, 9) else 1536,
        max_threads_per_block=1024,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=227 * 1024,
        shared_memory_per_multiprocessor=228 * 1024,
        warp_size=32,
        gcnArchName="",
        uuid="offline",
    )


def _replacements(device: Device) -> list[tuple[Any, str, Any]]:
    from torch._dynamo import device_interface
    from torch._inductor.fx_passes import joint_graph, post_grad
    from torch._inductor.runtime.hints import DeviceProperties

    properties = _properties(device)
    capability = device.capability[0] * 10 + device.capability[1]

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    hints = DeviceProperties(
        "cuda", 0, device.sm_count, capability, device.capability[0], 65536, properties.max_threads_per_multi_processor,
        1024, 32,
    )  # fmt: skip
    interface = device_interface.CudaInterface
    return [
        (torch.cuda, "is_available", constant(True)),
        (torch.cuda, "device_count", constant(1)),
        (torch.cuda, "current_device", constant(0)),
        (torch.cuda, "set_device", constant(None)),
        (torch.cuda, "synchronize", constant(None)),
        (torch.cuda, "get_device_properties", constant(properties)),
        (torch.cuda, "get_device_capability", constant(device.capability)),
        (torch.cuda, "get_device_name", constant(device.name)),
        (torch.cuda, "_lazy_init", constant(None)),
        (torch.cuda, "_exchange_device", constant(0)),
        (torch.cuda, "_maybe_exchange_device", constant(0)),
        (torch.cuda, "is_bf16_supported", constant(True)),
        (torch.cuda, "is_current_stream_capturing", constant(False)),
        (torch.cuda, "get_rng_state", constant(torch.zeros(16, dtype=torch.uint8))),
        (torch.cuda, "set_rng_state", constant(None)),
        (torch._C, "_cuda_getDeviceCount", constant(1)),
        (torch.accelerator, "is_available", constant(False)),
        (DeviceProperties, "create", constant(hints)),
        (interface, "device_count", constant(1)),
        (interface, "current_device", constant(0)),
        (interface, "get_device_properties", constant(properties)),
        (interface, "get_compute_capability", constant(capability)),
        (interface.Worker, "get_device_properties", constant(properties)),
        (interface.Worker, "current_device", constant(0)),
        *_triton_replacements(device),
        *((module, "lazy_init", constant(None)) for module in (joint_graph, post_grad)),
        (joint_graph, "constant_fold_uniform_value", _on_cpu(joint_graph.constant_fold_uniform_value)),
    ]


def _on_cpu(fold: Callable[[torch.fx.GraphModule], Any]) -> Callable[[torch.fx.GraphModule], Any]:
    """Inductor folds constants by running the operators that make them, which here only the CPU can."""

    def run(module: torch.fx.GraphModule) -> Any:
        made = [(n, n.kwargs) for n in module.graph.nodes if isinstance(n.kwargs.get("device"), torch.device)]
        for node, kwargs in made:
            node.kwargs = {**kwargs, "device": torch.device("cpu")}
        try:
            return fold(module)
        finally:
            for node, kwargs in made:
                if not node._erased:
                    node.kwargs = kwargs

    return run


def _triton_replacements(device: Device) -> list[tuple[Any, str, Any]]:
    import torch.utils._triton as triton_utils
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    target = GPUTarget("cuda", device.capability[0] * 10 + device.capability[1], 32)
    backend = SimpleNamespace(hash=lambda: f"offline-{device.name}", binary_ext="cubin")
    return [
        (driver, "_active", SimpleNamespace(get_current_target=lambda: target)),
        (triton_utils, "triton_backend", lambda: backend),
        (triton_utils, "triton_hash_with_backend", lambda: f"offline-{device.name}"),
        (triton_utils, "has_triton", lambda *args, **kwargs: True),
    ]


@contextlib.contextmanager
def _inductor_settings() -> Iterator[None]:
    from torch._functorch import config as functorch_config
    from torch._inductor import config

    # Caches must not keep what was made for a device that is not there.
    inductor = {"shape_padding": False, "fx_graph_cache": False, "fx_graph_remote_cache": False}
    with config.patch({**inductor, **dict.fromkeys(_RUNNING, False)}), functorch_config.patch(enable_autograd_cache=False):
        yield


def settings_that_run() -> list[str]:
    """Return the settings of Inductor that are on and run kernels while a graph is compiled; `offline` switches them off."""
    from torch._inductor import config

    return [name for name in _RUNNING if functools.reduce(getattr, name.split("."), config)]


def _warm_pattern_tables() -> None:
    from torch._inductor.fx_passes import joint_graph, post_grad

    # Both tables trace their patterns on the device that torch reports; without a GPU they must be made on the CPU. They are
    # made once for each list of arguments, so these have to be the ones that Inductor itself gives.
    joint_graph.lazy_init(torch.device("cpu"))
    post_grad.lazy_init()


def _clear_device_caches() -> None:
    import torch.utils._triton as triton_utils
    from torch._inductor import utils
    from torch._inductor.runtime.hints import DeviceProperties

    for module in (utils, triton_utils):
        for value in vars(module).values():
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()
    if hasattr(DeviceProperties.create, "cache_clear"):
        DeviceProperties.create.cache_clear()


def fake_cuda(value: torch.Tensor, mode: FakeTensorMode) -> FakeTensor:
    """A fake CUDA tensor of the same size, stride and dtype as `value`, which holds no memory."""
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")  # type: ignore[return-value]


@contextlib.contextmanager
def faked_parameters(module: torch.nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Within this context every parameter and buffer of `module` is a fake CUDA tensor; tied ones stay tied."""
    fakes: dict[int, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for child in module.modules():
            tables: tuple[dict[str, Any], ...] = (child._parameters, child._buffers)
            for table in tables:
                stack.callback(table.update, dict(table))
                for name, tensor in table.items():
                    if tensor is not None:
                        if id(tensor) not in fakes:
                            fakes[id(tensor)] = _fake_like(tensor, mode)
                        table[name] = fakes[id(tensor)]
        yield


def _fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = fake_cuda(tensor, mode)
    return torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
