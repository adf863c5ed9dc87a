"""Build the graphs and plans on which traps of streams show, and take defences away."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from graphstreams.inductor import scheduling, stream_ops, streamed_code
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from graphstreams.reports.report import Report
from graphstreams.rewriting import regions
from graphstreams.verification.trace import Trace
from graphstreams.verification.vector_clocks import find_races
from tests.support.sample_modules import FREE_EVENTS, plan_by_hand, rewritten_by_hand, short_names

SOME = ["diamond", "topk", "norms", "two_writes", "concatenation"]
HELD_VALUES = regions.held_values


class Function(torch.nn.Module):
    """A function of three projections of 64 features and the inputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        for name in ("wa", "wb", "wc"):
            setattr(self, name, torch.nn.Linear(64, 64, bias=False))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@functools.cache
def read_function(function: Any, *rows: int) -> Reading:
    """Return a function's graph as kernels; its inputs have 64 features."""
    (outcome,) = capture(Function(function), [torch.empty(n, 64) for n in rows], "h200", FREE_EVENTS)
    assert outcome.reading is not None, outcome.report.reason
    return outcome.reading


def alternating(graph: KernelGraph, streams: int = 2) -> Plan:
    order = range(len(graph.kernels))
    return plan_by_hand(graph, order, {k: k % streams for k in order})


def named_plan(graph: KernelGraph, streams: dict[str, int]) -> Plan:
    """Return the kernels in the order given, each on its stream."""
    names = short_names(graph)
    return plan_by_hand(graph, [names.index(n) for n in streams], {names.index(n): s for n, s in streams.items()})


def report_of(reading: Reading, plan: Plan) -> Report:
    return rewritten_by_hand(reading, plan)[1].report


def refused(report: Report, why: str) -> bool:
    return (report.verdict, report.stage) == ("refused", "verify") and why in report.reason


def hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "held_values", lambda *_: {})


def plan_with(monkeypatch: pytest.MonkeyPatch, **settings: bool) -> None:
    """Let Inductor do in streamed graphs what the package switches off."""
    ours = streamed_code.stream_settings()
    monkeypatch.setattr(streamed_code, "stream_settings", lambda: {**ours, **settings})


def bare_operation(module: fx.GraphModule, operation: Any, event: int, stream: int, dependencies: Any) -> fx.Node:
    """Return a record or a wait as a node by itself, as a pass that knows nothing of `control_deps` would add it."""
    node = module.graph.call_function(operation, (event, stream))
    stream_ops.set_stream(node, stream)
    return node


def order_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to Inductor where its kernels and the stream operations come."""
    monkeypatch.setattr(stream_ops, "ordered", bare_operation)
    monkeypatch.setattr(scheduling, "order_by_stream", lambda nodes: nodes)


def kinds(trace: Trace) -> set[str]:
    return {race.kind for race in find_races(trace)}


def product_and_sine(m: Any, x: Tensor) -> Any:
    a, b = m.wa(x), m.wb(x)
    return a @ b.t(), a.sin()
