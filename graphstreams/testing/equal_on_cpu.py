"""Check on the CPU that rewritten graphs compute what they computed before."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from graphstreams.benchmark.bits import equal_bits
from graphstreams.inductor.compile import fresh_dynamo
from graphstreams.ir.devices import Device
from graphstreams.options import Options
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.testing.cpu_execution import run_on_cpu


def equal_on_cpu(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    target: str | Device = "h200",
    options: Options | Mapping[str, Any] | None = None,
) -> list[bool]:
    """Return whether each graph of `module(*inputs)`, rewritten for `target`, computes on the CPU what it computed before.

    `module` and `inputs` are real, on the CPU. Outputs and changed inputs are compared bit by bit. A graph that is not
    rewritten does not count. Raises ValueError if none is rewritten, or if a graph takes other inputs than the CPU's.
    """
    return equal_as_captured(module, inputs, capture(module, inputs, target, options))


def equal_as_captured(module: torch.nn.Module, inputs: Sequence[Any], outcomes: Sequence[GraphCompilation]) -> list[bool]:
    """Return what `equal_on_cpu` does, for the graphs that `capture` has returned for the same module and inputs."""
    # Of each graph, the inputs of its first call: when it is compiled, dynamic sizes are no numbers.
    recorded: list[list[Any]] = []

    def record(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        first: list[Any] = []
        recorded.append(first)

        def run(*values: Any) -> Any:
            if not first:
                first.extend(copy.deepcopy(list(values)))
            return gm(*values)

        return run

    # Copies, because a module may write its own buffers; made together, so that tensors that share memory still do.
    called, given = copy.deepcopy((module, list(inputs)))
    with torch.no_grad(), fresh_dynamo():
        torch.compile(called, backend=record)(*given)
    if len(outcomes) != len(recorded):
        raise ValueError(f"{len(recorded)} graphs on the CPU, {len(outcomes)} on the GPU: they cannot be compared")
    results = [_same_numbers(outcome, values) for outcome, values in zip(outcomes, recorded, strict=True) if outcome.module]
    if not results:
        raise ValueError(f"nothing was rewritten: {outcomes[0].report.reason}")
    return results


def _same_numbers(outcome: GraphCompilation, values: Sequence[Any]) -> bool:
    assert outcome.module is not None and outcome.reading is not None
    taken = len(outcome.reading.module.graph.find_nodes(op="placeholder"))
    if taken != len(values):
        raise ValueError(f"the graph takes {taken} inputs and the CPU's {len(values)}, as where inputs share memory")
    results = []
    for module in (outcome.reading.module, outcome.module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results.append(run_on_cpu(module, values))
    serial, streamed = results
    return all(equal_bits(one, other) for one, other in zip(serial, streamed, strict=True))
