"""The kernels of a module on the GPU at hand, to be played in any order: for benchmarks and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.inductor.compile import PostGradBackend
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.run import read_graph
from graphstreams.reading.naming import inputs_by_position


@dataclass(frozen=True)
class Playable:
    """One graph: what was read of it, and its compiled kernels."""

    reading: Reading
    player: KernelReplayer

    @property
    def graph(self) -> KernelGraph:
        return self.reading.kernels

    @property
    def order(self) -> list[int]:
        """Kernel ids in the order of the serial code."""
        return self.reading.kernel_order


def player_of(module: torch.nn.Module, inputs: Sequence[Any]) -> list[Playable]:
    """The graphs of `module(*inputs)`, largest first, their kernels compiled by Inductor and run once on the real inputs.

    Needs a CUDA device. Raises Unmeasurable where kernels cannot be repeated.
    """
    found: list[Playable] = []

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read_graph(gm, f"graph {len(found)}", names)
        code = CompiledSerialGraph(reading)
        with unset_fake_temporarily():
            found.append(Playable(reading, code.player(code.arguments(inputs_by_position(reading.module, values)))))

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(module, backend=PostGradBackend(visit))(*inputs)
    torch.compiler.reset()
    return sorted(found, key=lambda playable: -len(playable.reading.order))
