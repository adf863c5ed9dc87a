"""Computes what a kernel takes of the GPU while it runs: block slots, SMs and bandwidth, and for how long it takes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sympy

from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Kernel, KernelGraph, value_of

# Fitted on one H200 to measured plans of 22 graphs, 2026-11-30: benchmarks/data/plans/README.md.
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


class Phase(NamedTuple):
    """A part of a kernel's time alone."""

    us: float
    blocks: bool = False  # or a head or tail, which takes nothing
    share: float = 0.0  # as in a footprint
    sms: float = 0.0


class LaunchFootprint(NamedTuple):
    """What the blocks of one of several launches take, and for how long."""

    share: float  # share of the GPU's block slots that they fill, 0 to 1
    sms: float  # share of the SMs that have one of them, 0 to 1
    part: float  # part of the time of all blocks of the kernel that they take, 0 to 1


@dataclass(frozen=True)
class Footprint:
    """The resources that one kernel takes. A kernel with `Footprint()` takes nothing, and nothing slows it down."""

    share: float = 0.0  # share of the GPU's block slots that its blocks fill, 0 to 1; of several launches, those of the widest
    bandwidth: float = 0.0  # share of the device memory's bandwidth that its blocks use if it runs alone, 0 to 1
    edge_us: float = 0.0  # us before blocks take slots, summed over its launches, and again after they have left them
    sms: float = 0.0  # share of the SMs that have one of its blocks, 0 to 1; of several launches, those of the widest
    launches: tuple[LaunchFootprint, ...] = ()  # one after another, if there are several whose blocks are known

    def phases(self, us: float) -> list[Phase]:
        """Return what a kernel that takes `us` us alone does, last first: heads, blocks and tails."""
        blocks_us = max(0.0, us - 2.0 * self.edge_us)
        if not self.launches:
            edges = [Phase(self.edge_us)] if self.edge_us else []
            return [*edges, Phase(blocks_us, True, self.share, self.sms), *edges]
        edge = Phase(self.edge_us / len(self.launches))
        between = Phase(2.0 * edge.us)  # the tail of one launch and the head of the next
        found = [edge]
        for share, sms, part in reversed(self.launches):
            found += (Phase(blocks_us * part, True, share, sms), between)
        found[-1] = edge
        return found


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
    # A collective runs in few blocks, and mostly waits for other ranks.
    if kernel.kind in ("none", "collective", "wait") or us <= 0:
        return Footprint()
    read, written = [value(access.bytes) for access in kernel.reads], [value(access.bytes) for access in kernel.writes]
    launches = len(blocks) or max(1, len(kernel.launches))
    edge = min(launches * EDGE_US, EDGES_MOST * us / 2)
    asked = sum(size for size in (*read, *written) if size >= L2_RESIDENT * device.l2) / ((us - 2 * edge) * 1e-6)
    taken = _launches(kernel, blocks or [_estimated_blocks(kernel, device, sum(read), sum(written))], device)
    widest = max(taken, key=lambda launch: launch.share)
    return Footprint(
        share=widest.share,
        bandwidth=min(1.0, asked / device.bandwidth),
        edge_us=edge,
        sms=widest.sms,
        launches=taken if len(taken) > 1 else (),
    )


def _launches(kernel: Kernel, blocks: Blocks, device: Device) -> tuple[LaunchFootprint, ...]:
    """Return what each launch takes.

    How long each takes was not measured, so a launch is taken to last as long as one of its blocks has of an SM: of a GEMM
    split along K the sum, whose blocks are small, is the shorter one.
    """
    weights = [1.0 / max(1, at_once) for _, at_once in blocks]
    return tuple(
        LaunchFootprint(_share(kernel, count, at_once), min(1.0, count / device.sm_count), weight / sum(weights))
        for (count, at_once), weight in zip(blocks, weights, strict=True)
    )


def _share(kernel: Kernel, count: int, at_once: int) -> float:
    """Return the share of block slots that a launch fills."""
    share = min(1.0, count / max(1, at_once))
    return max(share, min(GEMM_MOST, GEMM_FILL * share)) if kernel.kind in GEMMS else share


def _estimated_blocks(kernel: Kernel, device: Device, read: float, written: float) -> tuple[int, int]:
    """Return an estimate of a kernel's blocks from the bytes that it reads and writes."""
    if kernel.kind in GEMMS:
        count = max(read / GEMM_READ_PER_BLOCK, written / ELEMENT_BYTES / GEMM_TILE)
        return max(1, min(device.sm_count, round(count))), device.sm_count
    # A reduction reads what it reduces, a pointwise kernel may broadcast: the wider side has the blocks.
    count = max(read, written) / ELEMENT_BYTES / ELEMENTS_PER_BLOCK
    return max(1, round(count)), BLOCKS_PER_SM * device.sm_count
