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

# Fitted by hand to the kernels of V3.2 decode layers on one H200 inside CUDA graphs (docs/measurements.md); us each, with the
# gap of 0.4 us in front of a kernel.
FLOORS = {"gemm": 3.4, "reduction": 1.8, "pointwise": 1.6, "template": 3.4, "triton": 2.0, "extern": 2.5, "none": 0.0}
# aten.topk selects in one block per row, the others sort: neither is bound by bandwidth at these sizes.
SERIAL_OPERATIONS = {"topk": 22.0, "sort": 25.0, "kthvalue": 25.0, "nonzero": 15.0}
LATENCY = {"gemm": 2.2, "template": 2.2}  # us until a kernel runs at full bandwidth, and after
OTHER_LATENCY = 1.2  # us, the same for kernels without a matrix product
BANDWIDTH_SHARE = 0.8  # of the data sheet's, reached by large kernels


@dataclass(frozen=True)
class Roofline:
    """Prices kernels for one device."""

    device: Device

    def expression(self, kernel: Kernel) -> sympy.Expr:
        """The kernel's time in us, an expression in the dynamic sizes."""
        if kernel.kind == "none":
            return sympy.S.Zero
        latency = LATENCY.get(kernel.kind, OTHER_LATENCY)
        size = sum((access.bytes for access in (*kernel.reads, *kernel.writes)), sympy.S.Zero)
        candidates = [
            sympy.Float(self._floor(kernel)) * max(1, len(kernel.launches)),
            latency + size * (1e6 / (BANDWIDTH_SHARE * self.device.bandwidth)),
        ]
        if kernel.flops != 0:
            candidates.append(latency + kernel.flops * (1e6 / self._rate(kernel)))
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
