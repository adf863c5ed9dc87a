"""Decide which of Inductor's settings are fixed on streams, which are off there, and which keep a graph serial.

The serial body has all of the user's settings. A setting that is in none of the tables here holds on streams too.
Read in torch 2.15.0: `_inductor/config.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch._inductor import config

# The plan fixes the order, and one function has to hold all of it. Buffer reuse goes by the stream of a buffer's newest name
# (`Scheduler.get_buf_stream`), which a `control_deps` on another stream changes, so a kernel may get a buffer that another
# stream still reads. Without buffer reuse the allocator, which knows the streams, reuses the same memory at run time. An output
# must not be written in place over a buffer that an operator has allocated on an aux stream.
FIXED: dict[str, Any] = {
    "reorder_for_peak_memory": False,
    "graph_partition": False,
    "allow_buffer_reuse": False,
    "inplace_buffers": False,
}
# In the scheduler they move collectives and waits, for which every rank keeps one order: that which they leave in serial code.
_FIXED_WITH_COLLECTIVES: dict[str, Any] = {
    "aten_distributed_optimizations.enable_simple_overlap": False,
    "reorder_for_compute_comm_overlap": False,
}
# While a graph is lowered it makes all ranks agree. A rank that lowers the graph once more would wait for others.
_AGREEING = ("distributed_max_autotune_gemm",)


# So may the last one, which is off in every graph.
_MOVING = (*_FIXED_WITH_COLLECTIVES, "reorder_for_peak_memory")
# They join, split, replace or move collectives in the graph, ahead of its lowering, so what is planned is what they leave.
_CHANGING = (
    "_micro_pipeline_tp", "_fuse_ddp_communication", "dedup_reduce_scatters", "bucket_reduce_scatters_fx",
    "bucket_all_reduces_fx", "bucket_all_gathers_fx", "aten_distributed_optimizations.allow_comms_decompositions",
    "aten_distributed_optimizations.enable_overlap_scheduling",
    "aten_distributed_optimizations.enable_low_contention_collectives",
)  # fmt: skip


@dataclass(frozen=True)
class _Off:
    """A setting that is off on streams."""

    value: Any = False  # the value with which it is off
    other_kernels: bool = False  # whether it may give the serial body other kernels


_OFF = {
    # It joins kernels of different streams, and kernels of one stream that wait for different events.
    "combo_kernels": _Off(other_kernels=True),
    # It puts buffers of different streams into one allocation, and takes serial order for time order.
    "memory_planning": _Off(),
    # They choose kernels by the time that each takes alone. A choice between templates is open until kernels are fused, so what
    # a region launches isn't known when it is planned. Each lowering would time all choices again.
    "max_autotune": _Off(other_kernels=True),
    "max_autotune_gemm": _Off(other_kernels=True),
    "benchmark_fusion": _Off(other_kernels=True),
    "triton.multi_kernel": _Off(0, other_kernels=True),
    "multi_kernel_hints": _Off([], other_kernels=True),
    # It times kernels during calls, and the first call of the streamed body may be in a capture.
    "incremental_autotune": _Off(),
    # It runs kernels while code is generated, and would do so again for a graph that only has to be read.
    "triton.autotune_at_compile_time": _Off(),
    # It marks the whole call, of which the streamed body is a part, so the mark would be there twice.
    "profiler_mark_wrapper_call": _Off(),
}

# Settings that make something happen at run time for each kernel in serial order, and settings with which the code can't be
# read. For each: the values with which it is off, and why the graph stays serial otherwise.
_UNKNOWN = "unknown to this torch"
_NONE = (_UNKNOWN, None, False, 0, "", "0")
_UNUSABLE: dict[str, tuple[tuple[Any, ...], str]] = {
    # First those with which Inductor switches on others by itself.
    "cpp_wrapper": (_NONE, "only Python wrappers know streams"),
    "fx_wrapper": (_NONE, "only Python wrappers know streams"),
    "cuda_backend": ((_UNKNOWN, "triton"), "only Triton's kernels can be read"),
    # Parts of the mode "lite": eager operators are not fused, and the verifier doesn't know all of them.
    "fallback_by_default": (_NONE, "operators run eagerly, one by one, and the proof doesn't know all of them"),
    "selective_decompose": (_NONE, "operators run eagerly, one by one, and the proof doesn't know all of them"),
    "nan_asserts": (_NONE, "the host checks every buffer"),
    "generate_intermediate_hooks": (_NONE, "the host calls a function with every buffer"),
    "profile_bandwidth": (_NONE, "it times every kernel by itself"),
    "triton.proton_profiling": (_NONE, "its profile is of kernels that run one by one"),
    "triton.debug_sync_graph": (_NONE, "the host waits for the GPU"),
    "triton.debug_sync_kernel": (_NONE, "the host waits for the GPU behind every kernel"),
    "triton.debug_dump_kernel_inputs": ((_UNKNOWN, None, {}), "the host writes what kernels read to files"),
    "triton.store_cubin": (_NONE, "each call writes the kernels to files"),
    "aot_inductor.debug_intermediate_value_printer": (_NONE, "the host prints every buffer"),
    "test_configs.track_memory_lifecycle": (_NONE, "the host tracks every buffer, in serial order"),
    "annotate_training": (_NONE, "it marks the whole call for a profiler, in code that no body can be added to"),
    "benchmark_kernel": (_NONE, "each kernel's source holds a program that times it, which the proof doesn't read"),
}


def stream_settings() -> dict[str, Any]:
    """Return the settings with which a graph is read and its streamed body generated."""
    # A setting that this torch doesn't have can't be set.
    settings = {**{name: off.value for name, off in _OFF.items()}, **FIXED}
    return {name: value for name, value in settings.items() if _value(name) is not _UNKNOWN}


def collective_settings() -> dict[str, Any]:
    """Return the settings that a graph with collectives has beside those of `stream_settings`."""
    return {name: value for name, value in _FIXED_WITH_COLLECTIVES.items() if _value(name) is not _UNKNOWN}


def settings_alone() -> dict[str, Any]:
    """Return the settings with which lowering a graph asks no other rank."""
    return {name: False for name in _AGREEING if _value(name) is not _UNKNOWN}


def under_settings(settings: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Return a context in which Inductor has `settings`."""
    return config.patch(dict(settings))


def settings_off() -> dict[str, Any]:
    """Return the values of the settings that are on and stay off on streams."""
    return {name: _value(name) for name, off in _OFF.items() if _value(name) not in (_UNKNOWN, off.value, None)}


def notes_on_settings() -> list[str]:
    """Return what to know about Inductor's settings in effect, for the report's notes."""
    notes = []
    if off := settings_off():
        other_kernels = any(_OFF[name].other_kernels for name in off)
        listed = ", ".join(f"{name}={value}" for name, value in off.items())
        bits = "; bits may differ between calls that run streams and calls that don't" if other_kernels else ""
        notes.append(f"off on streams, on in the serial code: {listed}{bits}")
    if config.coordinate_descent_tuning:
        notes.append("coordinate_descent_tuning (part of max-autotune) turns matrix products of one row into multiply and sum")
    return notes


def moving_settings() -> list[str]:
    """Return those of Inductor's settings that are on and move collectives in the scheduler."""
    return [name for name in _MOVING if _value(name) not in _NONE]


def notes_on_collectives(explained: bool) -> list[str]:
    """Return what Inductor's settings do to the collectives of a graph, for the report's notes.

    If it is `explained`, Inductor's own passes of that kind have not run.
    """
    moving = moving_settings()
    changing = [name for name in _CHANGING if _value(name) not in (*_NONE, "none")]
    notes = []
    if moving:
        names = ", ".join(moving)
        notes.append(f"collectives have the order of the serial code, in which {names} may have moved them; off on streams")
    if changing and explained:
        notes.append(f"not run here, though on: {', '.join(changing)}; a compiled graph may have other collectives")
    return notes


def pass_over_collectives() -> str:
    """Return why the collectives of a graph may have another order in each of its lowerings; empty if they have one.

    A pass over the fused kernels gets the streamed body's in another order than the serial one's, and two collectives of one
    operator on tensors of one size are not told apart by the proof.
    """
    given = [name for name in ("_pre_fusion_custom_pass", "_post_fusion_custom_pass") if _value(name) not in _NONE]
    return f"Inductor's setting {given[0]} is set: it may put collectives in another order on streams" if given else ""


def unusable_setting() -> str:
    """Return why a setting keeps every graph serial; empty if none does."""
    for name, (harmless, why) in _UNUSABLE.items():
        value = _value(name)
        if value not in harmless:
            is_on = "is on" if value is True else f"is {value!r}"
            return f"Inductor's setting {name} {is_on}: {why}"
    return ""


def _value(name: str) -> Any:
    start: Any = config
    return functools.reduce(lambda value, part: getattr(value, part, _UNKNOWN), name.split("."), start)
