"""Times of kernels from bytes and FLOPs: a roofline with a floor, as sympy expressions in the dynamic sizes.

The model is Williams, Waterman and Patterson's (CACM 2009): a kernel takes as long as the slower of moving its bytes and
doing its arithmetic. At decode nearly all kernels are so small that latency decides: each launch has a floor, and a kernel
runs at full rate only after a while, a matrix product later the longer its inner dimension is, which a block goes through
in one piece or which a second kernel sums up. A matrix product of few rows is bound by these and by its bytes, never by its
FLOPs. The numbers are those of a calibration (`calibration.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy

from graphstreams.costs.calibration import Calibration, calibration_of, latency_of
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, KernelGraph, value_of

# Bytes of an element of a matrix product's result, by the dtype of what is multiplied, where it is not 2.
_RESULT_BYTES = {"float64": 8, "float32": 4, "int8": 4}


@dataclass(frozen=True)
class Work:
    """What a kernel does, in the time that the data sheet gives it. Numbers, or expressions in the dynamic sizes."""

    kind: str
    launches: int
    megabytes: Any  # read and written
    moving_us: Any  # for them
    computing_us: Any  # for its FLOPs
    inner: Any  # inner dimension of the matrix product, in thousands; 0 for other kernels
    operations: tuple[str, ...]

    def at(self, sizes: Mapping[str, int]) -> Work:
        """As numbers, for given dynamic sizes. Raises ValueError where one is missing."""
        return replace(
            self,
            megabytes=value_of(self.megabytes, sizes),
            moving_us=value_of(self.moving_us, sizes),
            computing_us=value_of(self.computing_us, sizes),
            inner=value_of(self.inner, sizes),
        )


def work_of(kernel: Kernel, device: Device) -> Work:
    """What `kernel` does, by the data sheet of `device`."""
    size = sum((access.bytes for access in (*kernel.reads, *kernel.writes)), sympy.S.Zero)
    return Work(
        kind=kernel.kind,
        launches=max(1, len(kernel.launches)),
        megabytes=size * 1e-6,
        moving_us=size * (1e6 / device.bandwidth),
        computing_us=kernel.flops * (1e6 / _rate(kernel, device)),
        inner=_inner_dimension(kernel) / 1000,
        operations=kernel.ops,
    )


def candidates(work: Work, calibration: Calibration) -> list[Any]:
    """Times in us, the longest of which the kernel takes. Numbers or expressions, as those in `work` are."""
    latency = calibration.latency[latency_of(work.kind)]
    if work.inner != 0:
        latency = latency + calibration.inner_us * work.inner
    found = [calibration.floors[work.kind] * work.launches, latency + work.moving_us / calibration.bandwidth_share]
    if work.computing_us != 0:
        found.append(latency + work.computing_us / calibration.flops_share)
    for operation, (start, slope) in calibration.serial.items():
        if operation in work.operations:
            found.append(start + slope * work.megabytes)
    return found


class Roofline:
    """Prices kernels for one device."""

    def __init__(self, device: Device, calibration: Calibration | None = None) -> None:
        """Without `calibration` with the best that is known here for `device`: `calibration_of`."""
        self.device = device
        self.calibration = calibration or calibration_of(device)

    def expression(self, kernel: Kernel) -> sympy.Expr:
        """The kernel's time in us, an expression in the dynamic sizes.

        As it stands: to simplify the maxima of some hundred kernels takes sympy seconds.
        """
        if kernel.kind == "none":
            return sympy.S.Zero
        return sympy.Max(*map(sympy.sympify, candidates(work_of(kernel, self.device), self.calibration)), evaluate=False)

    def us(self, kernel: Kernel, sizes: Mapping[str, int] | None = None) -> float:
        """The kernel's time in us for given dynamic sizes. Raises ValueError where one is missing.

        With numbers in place of the sizes: of 20,000 kernels sympy's maxima took 5 s, these take less than 2.
        """
        if kernel.kind == "none":
            return 0.0
        return float(max(candidates(work_of(kernel, self.device).at(sizes or {}), self.calibration)))

    def prices(self, graph: KernelGraph) -> list[float]:
        """The time of each kernel in us at the graph's example sizes."""
        return [self.us(kernel, graph.sizes) for kernel in graph.kernels]

    def __str__(self) -> str:
        return f"roofline, {self.calibration.described(self.device.name)}"


def price(graph: KernelGraph, device: Device) -> list[float]:
    """The time of each kernel in us on `device`, at the graph's example sizes."""
    return Roofline(device).prices(graph)


def _rate(kernel: Kernel, device: Device) -> float:
    for name, rate in device.flops.items():
        if kernel.dtype.startswith(name):
            return rate
    return device.flops["float32"]


def _inner_dimension(kernel: Kernel) -> sympy.Expr:
    """K of a product of M x K and K x N, from its 2 M N K FLOPs and the bytes of its result."""
    written = sum((access.bytes for access in kernel.writes), sympy.S.Zero)
    if kernel.flops == 0 or written == 0:
        return sympy.S.Zero
    return kernel.flops * _RESULT_BYTES.get(kernel.dtype, 2) / (2 * written)
