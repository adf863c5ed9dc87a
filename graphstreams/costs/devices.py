"""What a GPU can do, as far as planning needs it.

Figures of the table come from the vendor's data sheets (dense rates, without sparsity); latencies are ours.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One GPU model. Rates are per second, latencies in us."""

    name: str
    capability: tuple[int, int]
    sm_count: int
    bandwidth: float  # bytes/s of device memory
    flops: dict[str, float]  # FLOP/s by dtype of the arithmetic
    memory: int  # bytes
    launch_us: float = 1.5  # the shortest time between two kernels of one stream inside a CUDA graph
    event_us: float = 1.0  # what a wait on another stream adds inside a CUDA graph
    l2: int = 50 * 2**20  # bytes


_HOPPER = {"float64": 67e12, "float32": 67e12, "bfloat16": 989e12, "float16": 989e12, "float8": 1979e12, "int8": 1979e12}
_BLACKWELL = {"float64": 37e12, "float32": 75e12, "bfloat16": 2250e12, "float16": 2250e12, "float8": 4500e12}
_AMPERE = {"float64": 19.5e12, "float32": 19.5e12, "bfloat16": 312e12, "float16": 312e12, "int8": 624e12}
_ADA = {"float64": 1.4e12, "float32": 91.6e12, "bfloat16": 362e12, "float16": 362e12, "float8": 733e12, "int8": 733e12}

DEVICES: dict[str, Device] = {
    "h200": Device("NVIDIA H200", (9, 0), 132, 4.8e12, _HOPPER, 141 * 10**9, l2=50 * 2**20),
    "h100": Device("NVIDIA H100 80GB HBM3", (9, 0), 132, 3.35e12, _HOPPER, 80 * 10**9, l2=50 * 2**20),
    "a100": Device("NVIDIA A100-SXM4-80GB", (8, 0), 108, 2.039e12, _AMPERE, 80 * 10**9, l2=40 * 2**20),
    "b200": Device("NVIDIA B200", (10, 0), 148, 8.0e12, _BLACKWELL, 180 * 10**9, l2=126 * 2**20),
    "l40s": Device("NVIDIA L40S", (8, 9), 142, 0.864e12, _ADA, 48 * 10**9, l2=96 * 2**20),
}


def device_by_name(name: str) -> Device:
    """The device that a short name ("h200") or a driver's name ("NVIDIA H200") stands for.

    Raises ValueError with the nearest known name where it stands for none.
    """
    wanted = name.lower().replace("nvidia", "").strip()
    for key, device in DEVICES.items():
        if wanted == key or wanted.split(" ")[0].split("-")[0] == key:
            return device
    near = difflib.get_close_matches(wanted, DEVICES, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown device {name!r}; did you mean {near!r}? Known: {', '.join(DEVICES)}")
