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
from graphstreams.pipeline.preconditions import read_graph
from graphstreams.reading.naming import inputs_by_position


@dataclass(frozen=True)
class ReplayableGraph:
    """The kernels of a graph, compiled."""

    graph: KernelGraph
    order: list[int]  # kernel ids, as in the serial code
    replayer: KernelReplayer


def replayable_graphs(module: torch.nn.Module, inputs: Sequence[Any]) -> list[ReplayableGraph]:
    """Return the graphs of `module(*inputs)`, largest first, their kernels compiled and run once on the real inputs.

    Needs a CUDA device, and clears what Dynamo has compiled. Raises Unmeasurable if kernels can't be repeated.
    """
    found: list[tuple[int, ReplayableGraph]] = []  # each with its number of launches

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read_graph(gm, f"graph {len(found)}", names)
        code = CompiledSerialGraph(reading)
        with unset_fake_temporarily():
            arguments = code.arguments(inputs_by_position(reading.module, values))
            graph = ReplayableGraph(reading.kernels, reading.kernel_order, code.replayer(arguments))
        found.append((reading.launches, graph))

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(module, backend=PostGradBackend(visit))(*inputs)
    torch.compiler.reset()
    return [graph for _, graph in sorted(found, key=lambda pair: -pair[0])]
