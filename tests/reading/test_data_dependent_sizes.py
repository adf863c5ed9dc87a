"""Check that a graph with a size that depends on data stays serial with a reason that names operator, size and line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphstreams import explain
from graphstreams.pipeline.explain import explain_graphs
from graphstreams.reports.report import Report

Function = Callable[[Tensor, Tensor], Tensor]


def _nonzero(x: Tensor, counts: Tensor) -> Tensor:
    return counts.nonzero().sum(0)


def _masked_select(x: Tensor, counts: Tensor) -> Tensor:
    return torch.masked_select(x, x > 0).sum()


def _arange(x: Tensor, counts: Tensor) -> Tensor:
    length = counts.sum().item()
    torch._check(length >= 0)
    return torch.arange(length, device=x.device).sum()


def _repeat_interleave(x: Tensor, counts: Tensor) -> Tensor:
    return torch.repeat_interleave(x, counts, dim=0).sum(0)


def _slice(x: Tensor, counts: Tensor) -> Tensor:
    end = counts.sum().item()
    torch._check(end >= 0)
    torch._check(end <= x.shape[0])
    return x[:end].sum(0)


def _number(x: Tensor, counts: Tensor) -> Tensor:
    return x * counts.sum().item()


# The operator that makes the size, and the code that calls it.
CASES: dict[Function, tuple[str, str]] = {
    _nonzero: ("aten.nonzero.default", "return counts.nonzero().sum(0)"),
    _masked_select: ("aten.masked_select.default", "return torch.masked_select(x, x > 0).sum()"),
    _arange: ("aten._local_scalar_dense.default", "length = counts.sum().item()"),
    _repeat_interleave: ("aten.repeat_interleave.Tensor", "return torch.repeat_interleave(x, counts, dim=0).sum(0)"),
    _slice: ("aten._local_scalar_dense.default", "end = counts.sum().item()"),
    _number: ("aten._local_scalar_dense.default", "return x * counts.sum().item()"),
}


class Beside(nn.Module):
    """Two products that need nothing of each other, beside what has a size of its data."""

    def __init__(self, function: Function, broken: bool = False) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)
        self.function, self.broken = function, broken

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
        results = self.one(x), self.other(x)
        if self.broken:
            torch._dynamo.graph_break()
        return *results, self.function(x, counts)


def module_and_inputs(function: Function, broken: bool = False) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Beside(function, broken).requires_grad_(False), (torch.randn(8, 512), torch.ones(8, dtype=torch.long))


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_the_reason_names_the_operator_the_size_and_the_line(function: Function) -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        report = explain(*module_and_inputs(function), "h200")
    operator, line = CASES[function]
    assert (report.verdict, report.stage) == ("serial", "read")
    assert f"({operator} in {line!r}) has a size that depends on data (u" in report.reason
    assert "torch._dynamo.graph_break()" in report.reason


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_without_dynamos_settings_there_is_no_crash_and_the_products_are_planned(function: Function) -> None:
    """Dynamo leaves the operator to Python, and what comes before it is a graph of its own."""
    found = largest(explain_graphs(*module_and_inputs(function), "h200", {"min_gain": 0.0}))
    assert (found.verdict, found.reason) == ("clean", "")


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_the_advice_helps(function: Function) -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        first, *_ = explain_graphs(*module_and_inputs(function, broken=True), "h200", {"min_gain": 0.0})
    assert (first.verdict, first.reason) == ("clean", "")


def largest(reports: list[Report]) -> Report:
    return max(reports, key=lambda report: report.kernels_serial)
