"""Predicts the times of kernels from bytes and FLOPs: a roofline with a floor, as sympy expressions in the dynamic sizes.

The model is Williams, Waterman and Patterson's (CACM 2009): a launch takes as long as the slower of moving its bytes and
doing its arithmetic, here with a part of the other, because the two overlap incompletely. At decode nearly all kernels are so
small that latency decides. Each launch has a floor, and reaches its full rate only after a latency. That of a matrix product,
a convolution or attention grows with its inner dimension, because one block goes through all of it, or a second kernel sums up
the parts. A kernel of several launches takes the sum of their times. The parameters are those of a calibration
(`calibration.py`). Collectives have a model of their own (`collectives.py`), and waits take no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy

from graphstreams.costs.calibration import Calibration, calibration_of
from graphstreams.costs.collectives import collective_us
from graphstreams.costs.work import Work, works_of
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, KernelGraph

COPIES = 3  # that a convolution makes in another layout: of its image, its filters and its result


def candidates(work: Work, calibration: Calibration) -> list[Any]:
    """Return times of a launch in us, the longest of which it takes. They are numbers or expressions, as `work` is."""
    if work.known_us:
        return [work.known_us]
    if work.kind == "collective":
        return [collective_us(work.moving_us, work.steps)]
    latency = calibration.latency[work.role] * work.launches
    latency += calibration.gather_us if work.gathers else 0.0
    latency += COPIES * calibration.copy_us if work.rearranged else 0.0
    terms = _terms(work, calibration)
    rest = sum(terms)
    found = [calibration.floors[work.kind] * work.launches]
    found += [latency + (1 - calibration.overlap) * term + calibration.overlap * rest for term in terms]
    if work.operator in calibration.serial:
        start, slope = calibration.serial[work.operator]
        found.append(start + slope * work.megabytes)
    return found


def _terms(work: Work, calibration: Calibration) -> list[Any]:
    """Return what a launch does, each in us: moving bytes, computing, and going through the inner dimension."""
    share = calibration.bandwidth_share[work.role]
    if work.role == "other":
        return [work.moving_us / share]
    moving = work.moving_us / share
    if work.role == "float32" and work.streaming_us != 0:
        # Without tensor cores each product of a batch reads its operands from the cache, also those that others share.
        moving = work.streaming_us / calibration.cache_share + calibration.vectors_us * work.vectors
    return [moving, work.computing_us / calibration.flops_share[work.role], _inner(work, calibration)]


def _inner(work: Work, calibration: Calibration) -> Any:
    """Return the us of going through the inner dimension, for each group of a convolution once."""
    if work.role != "convolution":
        return calibration.inner_us[work.role] * work.inner
    if work.narrow:
        return calibration.narrow_us * work.inner
    if work.groups == 1:
        return calibration.inner_us["convolution"] * work.inner
    return calibration.grouped_us * work.inner * work.groups + calibration.latency["convolution"] * (work.groups - 1)


def predicted(works: Iterable[Work], calibration: Calibration) -> float:
    """Return the us of a kernel, the work of whose launches is given in numbers."""
    return float(sum(max(candidates(work, calibration)) for work in works))


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
        # Unevaluated, because sympy takes seconds to simplify the maxima of some hundred kernels.
        each = [
            sympy.Max(*map(sympy.sympify, candidates(work, self.calibration)), evaluate=False)
            for work in works_of(kernel, self.device)
        ]
        return each[0] if len(each) == 1 else sympy.Add(*each, evaluate=False)

    def us(self, kernel: Kernel, sizes: Mapping[str, int] | None = None) -> float:
        """Return the kernel's time in us for given dynamic sizes. Raises ValueError if one is missing."""
        # From numbers: sympy's maxima take more than twice as long.
        return predicted([work.at(sizes or {}) for work in works_of(kernel, self.device)], self.calibration)

    def price(self, graph: KernelGraph) -> list[float]:
        """Return the time of each kernel in us, at the graph's example sizes."""
        return [self.us(kernel, graph.sizes) for kernel in graph.kernels]
