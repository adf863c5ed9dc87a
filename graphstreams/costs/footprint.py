"""Computes what a kernel takes of the GPU while it runs: block slots, bandwidth, and for how long it takes neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy

from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, KernelGraph, value_of

# Fitted on one H200 to measured plans, see benchmarks/data/plans/README.md.
EDGE_US = 1.0  # us between what a launch waits for and its first block, and between its last block and what waits for it
EDGES_MOST = 0.9  # the largest share of a kernel's time that these edges take
# A GEMM that leaves a tenth of the SMs free lets no other GEMM in. The cause is not known; clusters, which need neighboring
# SMs, would explain it. With 1 the model would run a split-K GEMM and a small one side by side at no cost.
GEMM_FILL = 1.2
# Yet a few small blocks find room beside the blocks of a GEMM.
GEMM_MOST = 0.99

# Accesses below this part of the L2 cache do not use device memory, because the next kernel finds the data in the cache.
L2_RESIDENT = 1 / 32

# Estimates for kernels whose blocks were not measured.
ELEMENTS_PER_BLOCK = 1024  # in a pointwise kernel or a reduction that Inductor generated
ELEMENT_BYTES = 2
BLOCKS_PER_SM = 16  # of such a kernel: 4 warps a block, 64 on an SM
GEMM_READ_PER_BLOCK = 128 * 2**10  # bytes of a weight that one SM streams at decode
GEMM_TILE = 128 * 64  # elements of the result that one block computes

GEMMS = ("gemm", "template")
Blocks = Sequence[tuple[int, int]]  # for each launch: thread blocks, and how many of them the whole GPU holds at once


@dataclass(frozen=True)
class Footprint:
    """The resources that one kernel takes. A kernel with `Footprint()` takes nothing, and nothing slows it down."""

    share: float = 0.0  # share of the GPU's block slots that its blocks fill, 0 to 1
    bandwidth: float = 0.0  # share of the device memory's bandwidth that its blocks use if it runs alone, 0 to 1
    edge_us: float = 0.0  # us before its blocks take slots, and again after they have left them


def footprints(
    graph: KernelGraph,
    us: Sequence[float],
    device: Device,
    blocks: Mapping[int, Blocks] | None = None,
    value: Callable[[sympy.Expr], float] | None = None,
) -> list[Footprint]:
    """Return the footprint of each kernel of `graph` at its example sizes.

    `us` has the us of each kernel alone on `device`, and `blocks` those measured for the launches of each kernel, by its id
    (`autotuning.occupancy`); where they are not known they are estimated from its bytes. `value` evaluates the bytes of an
    access, an expression in the dynamic sizes; it can be given to use other sizes than the example's. Raises ValueError if the
    value of a dynamic size is missing.
    """
    known, at = blocks or {}, value or (lambda expression: value_of(expression, graph.sizes))
    return [_footprint(k, time, device, known.get(k.id, ()), at) for k, time in zip(graph.kernels, us, strict=True)]


def _footprint(kernel: Kernel, us: float, device: Device, blocks: Blocks, value: Callable[[sympy.Expr], float]) -> Footprint:
    if kernel.kind == "none" or us <= 0:
        return Footprint()
    read, written = [value(access.bytes) for access in kernel.reads], [value(access.bytes) for access in kernel.writes]
    launches = len(blocks) or max(1, len(kernel.launches))
    edge = min(launches * EDGE_US, EDGES_MOST * us / 2)
    asked = sum(size for size in (*read, *written) if size >= L2_RESIDENT * device.l2) / ((us - 2 * edge) * 1e-6)
    return Footprint(
        share=_share(kernel, blocks or [_estimated_blocks(kernel, device, sum(read), sum(written))]),
        bandwidth=min(1.0, asked / device.bandwidth),
        edge_us=edge,
    )


def _share(kernel: Kernel, blocks: Blocks) -> float:
    """Return the share of block slots that the widest launch fills: others, such as a split-K GEMM's sum, are far shorter."""
    widest = min(1.0, max(count / max(1, at_once) for count, at_once in blocks))
    return max(widest, min(GEMM_MOST, GEMM_FILL * widest)) if kernel.kind in GEMMS else widest


def _estimated_blocks(kernel: Kernel, device: Device, read: float, written: float) -> tuple[int, int]:
    """Return an estimate of a kernel's blocks from the bytes that it reads and writes."""
    if kernel.kind in GEMMS:
        count = max(read / GEMM_READ_PER_BLOCK, written / ELEMENT_BYTES / GEMM_TILE)
        return max(1, min(device.sm_count, round(count))), device.sm_count
    # A reduction reads what it reduces, a pointwise kernel may broadcast: the wider side has the blocks.
    count = max(read, written) / ELEMENT_BYTES / ELEMENTS_PER_BLOCK
    return max(1, round(count)), BLOCKS_PER_SM * device.sm_count
