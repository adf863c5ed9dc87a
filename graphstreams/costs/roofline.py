"""Predicts the times of kernels from bytes and FLOPs: a roofline with a floor, as sympy expressions in the dynamic sizes.

The model is Williams, Waterman and Patterson's (CACM 2009): a kernel takes as long as the slower of moving its bytes and
doing its arithmetic. At decode nearly all kernels are so small that latency decides. Each launch has a floor, and a kernel
reaches its full rate only after a latency. The latency of a matrix product grows with its inner dimension, because one block
goes through all of it, or a second kernel sums up the parts. A matrix product of few rows is bound by these and by its bytes,
never by its FLOPs. The parameters are those of a calibration (`calibration.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy

from graphstreams.costs.calibration import Calibration, calibration_of, latency_of
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, KernelGraph, value_of

# Bytes of an element of a matrix product's result, by the dtype of its operands, if they are not 2.
_RESULT_BYTES = {"float64": 8, "float32": 4, "int8": 4}


@dataclass(frozen=True)
class Work:
    """The work of a kernel, with the times of the data sheet. Numbers, or expressions in the dynamic sizes."""

    kind: str
    launches: int
    megabytes: Any  # read and written
    moving_us: Any  # us to move these at the data sheet's bandwidth
    computing_us: Any  # us to compute at the data sheet's FLOP rate
    inner: Any  # inner dimension of the matrix product, in thousands; 0 for other kernels
    operations: tuple[str, ...]  # ATen operations
    operation_megabytes: tuple[tuple[str, Any], ...] = ()  # of several launches, what those touch that run an operation

    def at(self, sizes: Mapping[str, int]) -> Work:
        """Return the work in numbers, for given dynamic sizes. Raises ValueError if one is missing."""
        names = ("megabytes", "moving_us", "computing_us", "inner")
        numbers: dict[str, Any] = {name: value_of(getattr(self, name), sizes) for name in names}
        each = tuple((operation, value_of(size, sizes)) for operation, size in self.operation_megabytes)
        return replace(self, **numbers, operation_megabytes=each)


def work_of(kernel: Kernel, device: Device) -> Work:
    """Return the work of `kernel`, with times by the data sheet of `device`."""
    size = sum((access.bytes for access in (*kernel.reads, *kernel.writes)), sympy.S.Zero)
    rate = next((rate for name, rate in device.flops.items() if kernel.dtype.startswith(name)), device.flops["float32"])
    return Work(
        kind=kernel.kind,
        launches=max(1, len(kernel.launches)),
        megabytes=size * 1e-6,
        moving_us=size * (1e6 / device.bandwidth),
        computing_us=kernel.flops * (1e6 / rate),
        inner=_inner_dimension(kernel) / 1000,
        operations=kernel.ops,
        operation_megabytes=tuple((operation, size * 1e-6) for operation, size in kernel.operation_bytes),
    )


def candidates(work: Work, calibration: Calibration) -> list[Any]:
    """Return times in us, the longest of which the kernel takes. They are numbers or expressions, as `work` is."""
    latency = calibration.latency[latency_of(work.kind)]
    if work.inner != 0:
        latency = latency + calibration.inner_us * work.inner
    found = [calibration.floors[work.kind] * work.launches, latency + work.moving_us / calibration.bandwidth_share]
    if work.computing_us != 0:
        found.append(latency + work.computing_us / calibration.flops_share)
    touched = dict(work.operation_megabytes)
    for operation, (start, slope) in calibration.serial.items():
        if operation in work.operations:
            found.append(start + slope * touched.get(operation, work.megabytes))
    return found


class Roofline:
    """The cost model of one device that computes times from bytes and FLOPs."""

    def __init__(self, device: Device, calibration: Calibration | None = None) -> None:
        """Use `calibration`, or the best one that there is for `device` (`calibration_of`)."""
        self.device = device
        self.calibration = calibration or calibration_of(device)
        other = "" if device.name == self.calibration.device else f" of {self.calibration.device}"
        self.name = f"roofline, calibration{other} of {self.calibration.date}"

    def expression(self, kernel: Kernel) -> sympy.Expr:
        """Return the kernel's time in us, an expression in the dynamic sizes."""
        if kernel.kind == "none":
            return sympy.S.Zero
        # Unevaluated, because sympy takes seconds to simplify the maxima of some hundred kernels.
        return sympy.Max(*map(sympy.sympify, candidates(work_of(kernel, self.device), self.calibration)), evaluate=False)

    def us(self, kernel: Kernel, sizes: Mapping[str, int] | None = None) -> float:
        """Return the kernel's time in us for given dynamic sizes. Raises ValueError if one is missing."""
        if kernel.kind == "none":
            return 0.0
        # From numbers: sympy's maxima take more than twice as long.
        return float(max(candidates(work_of(kernel, self.device).at(sizes or {}), self.calibration)))

    def price(self, graph: KernelGraph) -> list[float]:
        """Return the time of each kernel in us, at the graph's example sizes."""
        return [self.us(kernel, graph.sizes) for kernel in graph.kernels]


def _inner_dimension(kernel: Kernel) -> sympy.Expr:
    """Return K of a product of M x K and K x N, from its 2 M N K FLOPs and the bytes of its result."""
    written = sum((access.bytes for access in kernel.writes), sympy.S.Zero)
    if kernel.flops == 0 or written == 0:
        return sympy.S.Zero
    return kernel.flops * _RESULT_BYTES.get(kernel.dtype, 2) / (2 * written)
