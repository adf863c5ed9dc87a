"""Make synthetic times of kernels from planted parameters of the roofline."""

import random
from dataclasses import replace

import sympy

from graphstreams.calibration.fit import BY_HAND
from graphstreams.calibration.samples import Sample
from graphstreams.costs.roofline import predicted
from graphstreams.costs.work import works_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Kernel

H200 = DEVICES["h200"]
PLANTED = replace(
    BY_HAND,
    floors={"gemm": 4.0, "template": 4.0, "reduction": 2.5, "pointwise": 1.1, "triton": 2.0, "extern": 3.5},
    latency={**BY_HAND.latency, "gemm": 3.0, "other": 0.9},
    inner_us={**BY_HAND.inner_us, "gemm": 0.8},
    bandwidth_share={**BY_HAND.bandwidth_share, "gemm": 0.65, "other": 0.7},
    flops_share={**BY_HAND.flops_share, "gemm": 0.7},
    serial={**BY_HAND.serial, "topk": (30.0, 4.0)},
)


def kernel(kind: str, size: int, **changes: object) -> Kernel:
    return Kernel(0, "k", kind, reads=(Access("a", sympy.Integer(size)),), **changes)


def product(rows: object, n: int, k: int) -> Kernel:
    reads = (Access("x", 2 * sympy.sympify(rows) * k), Access("w", sympy.Integer(2 * n * k)))
    writes = (Access("y", 2 * sympy.sympify(rows) * n),)
    return Kernel(0, "k", "gemm", reads=reads, writes=writes, flops=2 * rows * n * k, dtype="bfloat16")


def kernels() -> list[Kernel]:
    weights = [(64, 64), (192, 7168), (2112, 7168), (3072, 1536), (7168, 2048), (4096, 4096), (24576, 1536), (7168, 16384)]
    found = [product(rows, n, k) for rows in (1, 16, 64, 2048, 8192) for n, k in weights]
    sizes = [4**i for i in range(3, 14)]
    found += [kernel(kind, size, launches=("",) * n) for kind in ("pointwise", "reduction") for size in sizes for n in (1, 2)]
    found += [kernel("extern", size) for size in (64, 256, 4096, 2**24, 2**26)]
    return found + [kernel("extern", size, ops=("topk",)) for size in (2**14, 2**18, 2**20, 2**22, 2**24)]


def synthetic_samples(noise: float = 0.0, outliers: float = 0.0) -> list[Sample]:
    """Return times that the planted parameters give, each off by a random share, some three times too long."""
    chance = random.Random(0)
    samples: list[Sample] = []
    for each in kernels():
        us = predicted([work.at({}) for work in works_of(each, H200)], PLANTED) * (1 + chance.uniform(-noise, noise))
        samples.append((each, {}, 3 * us if chance.random() < outliers else us))
    return samples
