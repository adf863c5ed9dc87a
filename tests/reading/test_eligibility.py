"""Check attention operators, which are ordinary kernels if their dropout is 0, and checks of sizes. No GPU is needed."""

import re

import pytest
import torch
from torch import nn

from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS

OPERATORS = torch.ops.aten


class Towers(nn.Module):
    """Two attentions side by side, each between two projections."""

    def __init__(self, operator: str, dropout: float) -> None:
        super().__init__()
        self.operator, self.dropout = operator, dropout
        self.inner, self.outer = (nn.ModuleList(nn.Linear(128, 128, False) for _ in range(2)) for _ in range(2))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        if self.operator == "flash":
            return OPERATORS._scaled_dot_product_flash_attention(x, x, x, self.dropout, True)[0]
        bias, keep = (None, False), (self.dropout, True)
        if self.operator == "efficient":
            return OPERATORS._scaled_dot_product_efficient_attention(x, x, x, *bias, *keep)[0]
        return OPERATORS._scaled_dot_product_cudnn_attention(x, x, x, *bias, dropout_p=self.dropout, is_causal=True)[0]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for value, inner, outer in zip((x, y), self.inner, self.outer, strict=True):
            heads = inner(value).view(1, 64, 2, 64).transpose(1, 2)
            found.append(outer(self.attention(heads).transpose(1, 2).reshape(1, 64, 128)))
        return found


@pytest.mark.parametrize("operator", ["flash", "efficient", "cudnn"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_draws_random_numbers_only_with_dropout(operator: str, dropout: float) -> None:
    inputs = tuple(torch.empty(1, 64, 128, dtype=torch.bfloat16) for _ in range(2))
    (outcome,) = capture(Towers(operator, dropout).bfloat16(), inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None, outcome.report.reason
    reasons = [kernel.exclusive_reason for kernel in outcome.reading.kernels.kernels if kernel.exclusive]
    assert len(reasons) == (2 if dropout else 0)
    assert all("draws random numbers" in reason for reason in reasons)
    if not dropout:
        assert outcome.report.verdict == "clean", outcome.report.reason


class Checked(nn.Module):
    """Two products of rows whose number each call checks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = self.a(x)
        torch._check(x.shape[0] <= 100)
        torch._check(x.shape[0] + y.shape[0] != 7)
        return u, self.b(y)


def test_checks_of_sizes_are_the_hosts_in_both_bodies() -> None:
    model, inputs = Checked(), (torch.randn(4, 64), torch.randn(6, 64))
    for each in inputs:
        torch._dynamo.mark_dynamic(each, 0)
    (outcome,) = capture(model, inputs, "h200", FREE_EVENTS)
    report = outcome.report
    assert report.verdict == "clean", report.reason
    assert report.kernels is not None and [kernel.name for kernel in report.kernels.kernels] == ["a", "b"]
    serial, streamed = (
        re.findall(r"if not \((.*)\):\n +raise RuntimeError", body) for body in report.wrapper.split("class Runner")
    )
    assert sorted(serial) == sorted(streamed) and len(serial) == 2
    assert re.search(r"raise RuntimeError\(.*with torch.cuda._DeviceGuard", report.wrapper, re.DOTALL)
    assert verify(report.wrapper) == [] and equal_as_captured(model, inputs, [outcome]) == [True]
