"""Define what a GPU can do by its data sheet, as far as planning needs it. What it does in fact is in `calibration.py`.

Sources: NVIDIA's data sheets of H200 (SXM), H100 (SXM), A100 80GB (SXM), HGX B200 and L40S; for numbers of SMs and L2 caches
its white papers on Ampere, Hopper and Ada. Rates of matrix products are the dense ones, half of what a sheet gives with
sparsity. float64 is the tensor cores' rate if they have one, float32 that of the vector units. tfloat32 is the tensor cores'
rate on float32 that is rounded to TF32, as torch does in convolutions, and in matrix products if it is told to. A link is
NVLink, of whose rate in both directions half is meant, or PCI Express 4.0 with 16 lanes.
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
    l2: int = 50 * 2**20  # bytes
    link: float = 32e9  # bytes/s to the other GPUs of the node, in one direction


# Sheets of H100 and H200: 67 and 67 TFLOP/s, with sparsity 989 in TF32, 1,979 in 16 bits and 3,958 in 8.
_HOPPER = {
    "float64": 67e12,
    "float32": 67e12,
    "tfloat32": 494e12,
    "bfloat16": 989e12,
    "float16": 989e12,
    "float8": 1979e12,
    "int8": 1979e12,
}
# Sheet of HGX B200, of one of its GPUs: 37 and 75 TFLOP/s, with sparsity 2,200 in TF32, 4,500 in 16 bits and 9,000 in 8.
_BLACKWELL = {
    "float64": 37e12,
    "float32": 75e12,
    "tfloat32": 1100e12,
    "bfloat16": 2250e12,
    "float16": 2250e12,
    "float8": 4500e12,
    "int8": 4500e12,
}
# Sheet of A100, whose rates without sparsity these are.
_AMPERE = {"float64": 19.5e12, "float32": 19.5e12, "tfloat32": 156e12, "bfloat16": 312e12, "float16": 312e12, "int8": 624e12}
# Sheet of L40S, the same; float64, which is not in it, is a 64th of float32 (white paper on Ada).
_ADA = {
    "float64": 1.4e12,
    "float32": 91.6e12,
    "tfloat32": 183e12,
    "bfloat16": 362e12,
    "float16": 362e12,
    "float8": 733e12,
    "int8": 733e12,
}

DEVICES: dict[str, Device] = {
    "h200": Device("NVIDIA H200", (9, 0), 132, 4.8e12, _HOPPER, 141 * 10**9, l2=50 * 2**20, link=450e9),
    "h100": Device("NVIDIA H100 80GB HBM3", (9, 0), 132, 3.35e12, _HOPPER, 80 * 10**9, l2=50 * 2**20, link=450e9),
    "a100": Device("NVIDIA A100-SXM4-80GB", (8, 0), 108, 2.039e12, _AMPERE, 80 * 10**9, l2=40 * 2**20, link=300e9),
    # Earlier sheets said 8 TB/s. SMs, L2 and 7,680 bits at 3,996 MHz are its driver's words (pytorch/ao, pull request 4002).
    "b200": Device("NVIDIA B200", (10, 0), 148, 7.7e12, _BLACKWELL, 180 * 10**9, l2=126 * 2**20, link=900e9),
    "l40s": Device("NVIDIA L40S", (8, 9), 142, 0.864e12, _ADA, 48 * 10**9, l2=96 * 2**20),
}


def device_at_hand() -> Device:
    """Return the current CUDA device: from the table if it is listed, else from what the driver says.

    Rates of an unlisted device are those of the listed device with the nearest capability, scaled by the number of SMs. So is
    its bandwidth, unless the driver tells memory clock and bus width. Raises RuntimeError if there is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device here; name one to plan for: target='h200', or --target h200 on the command line")
    name = torch.cuda.get_device_name()
    for device in DEVICES.values():
        if name == device.name:
            return device
    properties = torch.cuda.get_device_properties()
    nearest = min(
        DEVICES.values(),
        key=lambda d: abs(d.capability[0] * 10 + d.capability[1] - properties.major * 10 - properties.minor),
    )
    scale = properties.multi_processor_count / nearest.sm_count
    clock, width = getattr(properties, "memory_clock_rate", 0), getattr(properties, "memory_bus_width", 0)
    return Device(
        name=name,
        capability=(properties.major, properties.minor),
        sm_count=properties.multi_processor_count,
        bandwidth=clock * 1e3 * 2 * width / 8 if clock and width else nearest.bandwidth * scale,
        flops={dtype: rate * scale for dtype, rate in nearest.flops.items()},
        memory=properties.total_memory,
        l2=getattr(properties, "L2_cache_size", nearest.l2),
        link=nearest.link,
    )


def device_by_name(name: str) -> Device:
    """Return the device that a short name ("h200") or a driver's name ("NVIDIA H200") stands for.

    Raises ValueError, with the nearest known name, if it stands for none.
    """
    wanted = name.lower().replace("nvidia", "").strip()
    for key, device in DEVICES.items():
        if wanted == key or wanted.split(" ")[0].split("-")[0] == key:
            return device
    near = difflib.get_close_matches(wanted, DEVICES, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown device {name!r}; did you mean {near!r}? Known: {', '.join(DEVICES)}")
