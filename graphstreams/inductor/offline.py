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
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from graphstreams.inductor.offline_operators import operators_without_a_gpu
from graphstreams.ir.devices import Device

# Settings that run kernels while a graph is compiled: to time them, or (freezing) to fold what depends on weights alone. Shape
# padding also does, but it is on by default.
_RUNNING = (
    "max_autotune", "max_autotune_gemm", "benchmark_fusion", "benchmark_combo_kernel", "triton.autotune_at_compile_time",
    "freezing", "aten_distributed_optimizations.enable_overlap_scheduling",
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
        stack.enter_context(operators_without_a_gpu(device))
        # Caches must not keep what is made for a device that is not there.
        inductor = {"shape_padding": False, "fx_graph_cache": False, "fx_graph_remote_cache": False}
        stack.enter_context(config.patch({**inductor, **dict.fromkeys(filter(_known, _RUNNING), False)}))
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
        (
            FakeTensorMode,
            "avoid_device_init",
            property(_returning(True)),
        ),  # else a constant is made on the CPU and copied to the GPU
        (proxy_tensor, "CONSTANT_NUMEL_LIMIT", -1),  # else operators on constants run while they are traced
        (GraphLowering, "constant_name", _constant_name),
        (joint_graph, "constant_fold_uniform_value", _on_cpu(joint_graph.constant_fold_uniform_value)),
    ]


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _constant_name(lowering: GraphLowering, name: str, device: torch.device | None) -> str:
    """Name a constant's copy on `device`, which stays where the constant is. The code that loads it never runs."""
    constant = lowering.constants[name]
    if device in (None, constant.device):
        return name
    with unset_fake_temporarily():
        return lowering.allocate_non_dup_const_name(f"{name}_{device.type}{device.index or 0}", constant.clone())


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
    return [name for name in _RUNNING if _known(name) and functools.reduce(getattr, name.split("."), config)]


def _known(name: str) -> bool:
    """Return whether this torch has a setting of Inductor."""
    try:
        functools.reduce(getattr, name.split("."), config)
    except AttributeError:
        return False
    return True


def _clear_device_caches() -> None:
    for value in (*vars(utils).values(), *vars(triton_utils).values(), DeviceProperties.create):
        clear = getattr(value, "cache_clear", None)
        if callable(clear):
            clear()
