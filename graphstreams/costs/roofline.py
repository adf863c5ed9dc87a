"""Times of kernels from bytes and FLOPs: a roofline with a floor, as sympy expressions in the dynamic sizes.

The model is Williams, Waterman and Patterson's (CACM 2009): a kernel takes as long as the slower of moving its bytes and
doing its arithmetic. At decode nearly all kernels are so small that latency decides, which the floors stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy

from graphstreams.costs.devices import Device
from graphstreams.graph.kernels import Kernel, KernelGraph

# us; medians of small kernels of V3.2 decode layers on one H200 inside CUDA graphs (docs/measurements.md)
FLOORS = {"gemm": 4.0, "reduction": 2.2, "pointwise": 1.8, "template": 4.0, "triton": 2.0, "extern": 2.5, "none": 0.0}
# us for the first 4,096 entries of a row; aten.topk selects in one block per row, then sorts
SERIAL_OPERATIONS = {"topk": 40.0, "sort": 25.0, "kthvalue": 25.0, "nonzero": 15.0}
LATENCY_US = 1.3  # until the first bytes arrive and after the last are written


@dataclass(frozen=True)
class Roofline:
    """Prices kernels for one device."""

    device: Device

    def expression(self, kernel: Kernel) -> sympy.Expr:
        """The kernel's time in us, an expression in the dynamic sizes."""
        if kernel.kind == "none":
            return sympy.S.Zero
        size = sum((access.bytes for access in (*kernel.reads, *kernel.writes)), sympy.S.Zero)
        candidates = [
            sympy.Float(self._floor(kernel)) * max(1, len(kernel.launches)),
            LATENCY_US + size * (1e6 / self.device.bandwidth),
        ]
        if kernel.flops != 0:
            candidates.append(LATENCY_US + kernel.flops * (1e6 / self._rate(kernel)))
        return sympy.Max(*candidates)

    def us(self, kernel: Kernel, sizes: Mapping[str, int] | None = None) -> float:
        """The kernel's time in us for given dynamic sizes. Raises ValueError where one is missing."""
        return _value(self.expression(kernel), sizes or {})

    def _floor(self, kernel: Kernel) -> float:
        serial = [us for operation, us in SERIAL_OPERATIONS.items() if operation in kernel.ops]
        return max([FLOORS[kernel.kind], *serial])

    def _rate(self, kernel: Kernel) -> float:
        for name, rate in self.device.flops.items():
            if kernel.dtype.startswith(name):
                return rate
        return self.device.flops["float32"]


def _value(expression: sympy.Expr, sizes: Mapping[str, int]) -> float:
    value = expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols if str(symbol) in sizes})
    if value.free_symbols:
        raise ValueError(f"no example value for the dynamic size {sorted(map(str, value.free_symbols))[0]!r}")
    return float(value)


def price(graph: KernelGraph, device: Device) -> list[float]:
    """The time of each kernel in us on `device`, at the graph's example sizes."""
    model = Roofline(device)
    return [model.us(kernel, graph.sizes) for kernel in graph.kernels]


__all__: Sequence[str] = ("FLOORS", "Roofline", "price")
