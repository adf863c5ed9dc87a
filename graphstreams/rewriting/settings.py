"""Inductor's settings on streams: which are fixed, which are off, and which keep a graph serial.

The serial body has the user's settings, all of them. Read in torch 2.15.0: `_inductor/config.py`.
"""

from __future__ import annotations

from typing import Any

from torch._inductor import config

# Buffer reuse goes by the stream of a buffer's newest name (`Scheduler.get_buf_stream`), which a `control_deps` on another
# stream changes: a kernel was seen to get a buffer that another stream still read. Without it the allocator, which knows the
# streams, reuses the same memory at run time. Nor may an output be written in place over a buffer that an operator has
# allocated on an aux stream. The plan fixes the order, and one function has to hold all of it.
FIXED: dict[str, Any] = {
    "reorder_for_peak_memory": False,
    "graph_partition": False,
    "allow_buffer_reuse": False,
    "inplace_buffers": False,
}
# Join kernels across streams, plan memory across them, or choose kernels by what they take alone.
_OFF: dict[str, Any] = {
    "combo_kernels": False,
    "memory_planning": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "profiler_mark_wrapper_call": False,
    "triton.multi_kernel": 0,
    "triton.store_cubin": False,
    "triton.autotune_at_compile_time": False,
}
# Make the host wait for the GPU in the middle of a call.
_UNUSABLE = {
    "nan_asserts": "it checks every buffer on the host",
    "profile_bandwidth": "it times every kernel by itself",
    "triton.debug_sync_graph": "it waits for the GPU",
    "triton.debug_sync_kernel": "it waits for the GPU behind every kernel",
}


def stream_settings() -> dict[str, Any]:
    """Return the settings under which a graph is read and its streamed body generated."""
    return {**_OFF, **FIXED}


def settings_off() -> list[str]:
    """Return the settings that are on and stay off on streams, as `name=value`."""
    return [f"{name}={_value(name)}" for name in _OFF if _value(name)]


def unusable_setting() -> str:
    """Return why a setting that is on keeps every graph serial; empty if none does."""
    found = next((name for name in _UNUSABLE if _value(name)), None)
    return f"Inductor's setting {found} is on: {_UNUSABLE[found]}" if found else ""


def _value(name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
