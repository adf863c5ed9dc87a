"""Set the work of a kernel's launches against the data sheet of a device: the times that the roofline is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy

from graphstreams.costs.collectives import sent_share, steps
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, LaunchWork, value_of

PRODUCTS = ("gemm", "template")  # kinds of kernels that are matrix products
# Roles of launches, each with a latency, and but for the last with a FLOP rate of its own. Products of float32 run without
# tensor cores, if torch doesn't let them round to TF32.
ROLES = ("gemm", "float32", "convolution", "attention", "other")
SERIAL = ("topk", "sort", "kthvalue", "nonzero")  # operators that run in few blocks
# Bytes of an element of a matrix product's result, by the dtype of its operands, if they are not 2.
_RESULT_BYTES = {"float64": 8, "float32": 4, "tfloat32": 4, "int8": 4}
_ENCODER_LAYER = "_transformer_encoder_layer_fwd"
_ENCODER_LAUNCHES = 11  # kernels that it launches on an H200 with torch 2.15.0, by benchmarks/zoo/gpu.py


@dataclass(frozen=True)
class Work:
    """The work of a launch, with the times of the data sheet. Numbers, or expressions in the dynamic sizes."""

    kind: str  # as that of a kernel
    role: str  # one of ROLES
    operator: str  # that it calls; empty if its code is generated
    launches: int
    megabytes: Any  # read and written
    moving_us: Any  # us to move these at the data sheet's bandwidth
    computing_us: Any  # us to compute at the data sheet's FLOP rate
    inner: Any  # how many products a result adds up, in thousands; of attention the keys of a query
    groups: Any = 1  # of a convolution, which are computed one after another
    streaming_us: Any = 0  # us to move what a batch reads if each of its products reads its own, at the same bandwidth
    vectors: Any = 0  # millions of unaligned results of a batch of products of a matrix and a vector
    gathers: bool = False
    rearranged: bool = False
    narrow: bool = False
    steps: int = 0  # of a collective
    known_us: float = 0.0  # that it was measured to take; 0 if its time is modelled

    def at(self, sizes: Mapping[str, int]) -> Work:
        """Return the work in numbers, for given dynamic sizes. Raises ValueError if one is missing."""
        names = ("megabytes", "moving_us", "computing_us", "inner", "groups", "streaming_us", "vectors")
        numbers: dict[str, Any] = {name: value_of(getattr(self, name), sizes) for name in names}
        return replace(self, **numbers)


def works_of(kernel: Kernel, device: Device) -> list[Work]:
    """Return the work of each launch of `kernel`, with times by the data sheet of `device`; none if it launches nothing."""
    return [] if kernel.kind in ("none", "wait") else [_work(each, device) for each in kernel.work or (_whole(kernel),)]


def _work(launch: LaunchWork, device: Device) -> Work:
    if launch.kind == "collective":
        sent = launch.bytes * sent_share(launch.operator, launch.ranks)
        count = steps(launch.operator, launch.ranks)
        return Work("collective", "other", launch.operator, 1, sent * 1e-6, sent * (1e6 / device.link), 0, 0, steps=count)
    role = _role(launch)
    rate = next((rate for name, rate in device.flops.items() if launch.dtype.startswith(name)), device.flops["float32"])
    second = 1e6 / device.bandwidth
    return Work(
        kind=launch.kind,
        role=role,
        operator=launch.operator,
        launches=_ENCODER_LAUNCHES if launch.operator == _ENCODER_LAYER else launch.launches,
        megabytes=launch.bytes * 1e-6,
        moving_us=launch.bytes * second,
        computing_us=launch.flops * (1e6 / rate),
        inner=launch.inner / 1000,
        groups=launch.matrices if role == "convolution" else sympy.S.One,
        streaming_us=launch.streamed * second,
        vectors=launch.vectors * 1e-6,
        gathers=launch.gathers,
        rearranged=launch.rearranged,
        narrow=launch.narrow,
        known_us=launch.known_us,
    )


def _role(launch: LaunchWork) -> str:
    if launch.operator == "convolution":
        return "convolution"
    if launch.operator.startswith("_scaled_dot_product_"):
        return "attention"
    if launch.kind in PRODUCTS or launch.operator == _ENCODER_LAYER:
        return "float32" if launch.dtype in ("float32", "float64") else "gemm"
    return "other"


def _whole(kernel: Kernel) -> LaunchWork:
    """Return the work of a kernel of whose launches nothing is known one by one: together they do all that it does."""
    written = sum((access.bytes for access in kernel.writes), sympy.S.Zero)
    moved = sum((access.bytes for access in kernel.reads), written)
    # M x K times K x N has 2 M N K FLOPs and M N results.
    known = kernel.flops != 0 and written != 0
    inner = kernel.flops * _RESULT_BYTES.get(kernel.dtype, 2) / (2 * written) if known else sympy.S.Zero
    operator = next((operation for operation in SERIAL if operation in kernel.ops), "")
    launches = max(1, len(kernel.launches))
    return LaunchWork(kernel.kind, moved, launches, operator, kernel.dtype, kernel.flops, inner)
