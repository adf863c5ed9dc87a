"""Check that attention operators are ordinary kernels if their dropout is 0. No GPU: they are called by name."""

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
