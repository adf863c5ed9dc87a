"""Check attention operators, which are ordinary kernels if their dropout is 0, and checks of sizes. No GPU is needed."""

import pytest
import torch
from torch import nn

from graphstreams.pipeline.explain import capture
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
    """Two products of rows whose number is checked."""

    def __init__(self, by_guard: bool) -> None:
        super().__init__()
        self.by_guard, self.a, self.b = by_guard, nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.by_guard:
            torch._check(x.shape[0] <= 100)
        elif x.shape[0] > 100:
            raise ValueError("too many rows")
        return self.a(x), self.b(x)


def test_a_size_that_each_call_checks_keeps_a_graph_serial_and_one_in_a_guard_does_not() -> None:
    (checked,), (guarded,) = (
        capture(Checked(by_guard), (torch.randn(4, 64),), "h200", FREE_EVENTS, dynamic=True) for by_guard in (False, True)
    )
    assert checked.report.verdict == "serial" and guarded.report.verdict == "clean"
    assert checked.report.reason.startswith("each call checks sizes ('")
    assert checked.report.reason.endswith("an `if` on the size that raises makes a guard of it, and the graph is planned")
