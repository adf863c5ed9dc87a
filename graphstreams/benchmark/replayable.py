"""Compile the kernels of a module's serial graphs for the GPU at hand, to be replayed in any order."""

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
from graphstreams.pipeline.preconditions import read_graph
from graphstreams.reading.naming import inputs_by_position


@dataclass(frozen=True)
class ReplayableGraph:
    """A graph that was read, and its compiled kernels."""

    reading: Reading
    replayer: KernelReplayer

    @property
    def graph(self) -> KernelGraph:
        """Return the kernels and their dependences."""
        return self.reading.kernels

    @property
    def order(self) -> list[int]:
        """Return the kernel ids in the order of the serial code."""
        return self.reading.kernel_order


def replayable_graphs(module: torch.nn.Module, inputs: Sequence[Any]) -> list[ReplayableGraph]:
    """Return the graphs of `module(*inputs)`, largest first, their kernels compiled and run once on the real inputs.

    Needs a CUDA device, and clears what Dynamo has compiled. Raises Unmeasurable if kernels can't be repeated.
    """
    found: list[ReplayableGraph] = []

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read_graph(gm, f"graph {len(found)}", names)
        code = CompiledSerialGraph(reading)
        with unset_fake_temporarily():
            arguments = code.arguments(inputs_by_position(reading.module, values))
            found.append(ReplayableGraph(reading, code.replayer(arguments)))

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(module, backend=PostGradBackend(visit))(*inputs)
    torch.compiler.reset()
    return sorted(found, key=lambda replayable: -len(replayable.reading.order))
