"""Compile for a GPU that this machine lacks, on tensors that hold no memory.

Inside `offline(device)`, Dynamo, AOTAutograd and Inductor get the description of a GPU in answer to their device queries. Fake
CUDA tensors go through torch.compile up to the generated wrapper, but nothing can run. No other module of the package replaces
functions of torch. Read in torch 2.15.0: `_dynamo/device_interface.py`, `_inductor/runtime/hints.py`, `utils/_triton.py`,
`_subclasses/fake_tensor.py`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils._triton as triton_utils
from torch._dynamo import device_interface
from torch._functorch import config as functorch_config
from torch._inductor import config, utils
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.runtime.hints import DeviceProperties
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from graphstreams.ir.devices import Device

# Settings that run kernels while a graph is compiled: to time them, or (freezing) to fold what depends on weights alone. Shape
# padding also does, but it is on by default.
_RUNNING = (
    "max_autotune", "max_autotune_gemm", "benchmark_fusion", "benchmark_combo_kernel", "triton.autotune_at_compile_time",
    "freezing",
)  # fmt: skip


@contextlib.contextmanager
def offline(device: Device) -> Iterator[None]:
    """Make torch take `device` to be there as cuda:0 inside the context. For tracing and lowering only.

    Raises RuntimeError if torch was built without CUDA, because code generation for CUDA is then missing too.
    """
    if torch.version.cuda is None:
        raise RuntimeError("planning for a GPU needs a CUDA build of torch; this one is CPU-only (pip install torch)")
    with contextlib.ExitStack() as stack:
        # Both tables trace their patterns on the device that torch reports, so without a GPU they must be made on the CPU. They
        # are made once for each list of arguments, so the arguments have to be those that Inductor itself passes.
        joint_graph.lazy_init(torch.device("cpu"))
        post_grad.lazy_init()
        # Other modules hold some of these functions by name, and have cached that there is no device.
        _clear_device_caches()
        stack.callback(_clear_device_caches)
        for owner, name, value in _replacements(device):
            stack.enter_context(mock.patch.object(owner, name, value))
        # Caches must not keep what is made for a device that is not there.
        inductor = {"shape_padding": False, "fx_graph_cache": False, "fx_graph_remote_cache": False}
        stack.enter_context(config.patch({**inductor, **dict.fromkeys(_RUNNING, False)}))
        stack.enter_context(functorch_config.patch(enable_autograd_cache=False))
        _clear_device_caches()
        stack.callback(_clear_device_caches)
        yield


def _properties(device: Device) -> Any:
    return SimpleNamespace(
        name=device.name, uuid="offline", gcnArchName="", major=device.capability[0], minor=device.capability[1],
        multi_processor_count=device.sm_count, total_memory=device.memory, L2_cache_size=device.l2, warp_size=32,
        regs_per_multiprocessor=65536, max_threads_per_block=1024,
        max_threads_per_multi_processor=2048 if device.capability != (8, 9) else 1536,
        shared_memory_per_block=48 * 1024, shared_memory_per_block_optin=227 * 1024,
        shared_memory_per_multiprocessor=228 * 1024,
    )  # fmt: skip


def _replacements(device: Device) -> list[tuple[Any, str, Any]]:
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    properties, offline_hash = _properties(device), f"offline-{device.name}"
    capability = device.capability[0] * 10 + device.capability[1]
    hints = DeviceProperties(
        "cuda", 0, device.sm_count, capability, device.capability[0], 65536, properties.max_threads_per_multi_processor,
        1024, 32,
    )  # fmt: skip
    interface = device_interface.CudaInterface
    answers: dict[Any, dict[str, Any]] = {  # what each function returns, whatever its arguments
        torch.cuda: {
            "is_available": True, "device_count": 1, "current_device": 0, "set_device": None, "synchronize": None,
            "get_device_properties": properties, "get_device_capability": device.capability, "get_device_name": device.name,
            "_lazy_init": None, "_exchange_device": 0, "_maybe_exchange_device": 0, "is_bf16_supported": True,
            "is_current_stream_capturing": False, "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None,
        },
        torch._C: {"_cuda_getDeviceCount": 1},
        torch.accelerator: {"is_available": False},
        DeviceProperties: {"create": hints},
        interface: {
            "device_count": 1, "current_device": 0, "get_device_properties": properties, "get_compute_capability": capability,
        },
        interface.Worker: {"get_device_properties": properties, "current_device": 0},
        joint_graph: {"lazy_init": None},
        post_grad: {"lazy_init": None},
    }  # fmt: skip
    return [
        *((owner, name, _returning(value)) for owner, named in answers.items() for name, value in named.items()),
        (driver, "_active", SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", capability, 32))),
        (triton_utils, "triton_backend", _returning(SimpleNamespace(hash=_returning(offline_hash), binary_ext="cubin"))),
        (triton_utils, "triton_hash_with_backend", _returning(offline_hash)),
        (triton_utils, "has_triton", _returning(True)),
        (joint_graph, "constant_fold_uniform_value", _on_cpu(joint_graph.constant_fold_uniform_value)),
    ]


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _on_cpu(fold: Callable[[torch.fx.GraphModule], Any]) -> Callable[[torch.fx.GraphModule], Any]:
    """Return `fold`, which runs the operators that make and move constants, with those operators moved to the CPU."""

    def run(module: torch.fx.GraphModule) -> Any:
        moved = {node: named[0] for node in module.graph.nodes if (named := _devices(node))}
        for node in moved:
            _name_device(node, torch.device("cpu"))
        try:
            return fold(module)
        finally:
            for node, device in moved.items():
                if not node._erased:
                    _name_device(node, device)

    return run


def _devices(node: torch.fx.Node) -> list[torch.device]:
    """Return the devices that a call names."""
    return [value for value in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(value, torch.device)]


def _name_device(node: torch.fx.Node, device: torch.device) -> None:
    """Let a call name another device."""
    node.args, node.kwargs = pytree.tree_map_only(torch.device, lambda _: device, (node.args, node.kwargs))


def settings_that_run() -> list[str]:
    """Return those of Inductor's settings that are on and run kernels during compilation; `offline` switches them off."""
    return [name for name in _RUNNING if functools.reduce(getattr, name.split("."), config)]


def _clear_device_caches() -> None:
    for value in (*vars(utils).values(), *vars(triton_utils).values(), DeviceProperties.create):
        clear = getattr(value, "cache_clear", None)
        if callable(clear):
            clear()


def fake_cuda(value: torch.Tensor, mode: FakeTensorMode) -> FakeTensor:
    """Return a fake CUDA tensor with the size, strides and dtype of `value`."""
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")  # type: ignore[return-value]


@contextlib.contextmanager
def faked_parameters(module: torch.nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Make every parameter and buffer of `module` a fake CUDA tensor inside the context. Tied ones stay tied."""
    fakes = {id(tensor): _fake_like(tensor, mode) for tensor in (*module.parameters(), *module.buffers())}
    tables: list[dict[str, Any]] = [table for child in module.modules() for table in (child._parameters, child._buffers)]
    with contextlib.ExitStack() as stack:
        for table in tables:
            stack.callback(table.update, dict(table))
            table.update({name: fakes[id(tensor)] for name, tensor in table.items() if tensor is not None})
        yield


def _fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = fake_cuda(tensor, mode)
    return torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
