"""Check the comparison of rewritten graphs on the CPU where inputs share memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphstreams.testing import equal_on_cpu as compared
from graphstreams.testing.equal_on_cpu import equal_on_cpu
from tests.support.sample_modules import FREE_EVENTS


class Products(nn.Module):
    """A product of each of two inputs, and what was written to the first."""

    def __init__(self, write: bool) -> None:
        super().__init__()
        self.a, self.b, self.write = nn.Linear(64, 32), nn.Linear(64, 48), write

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.write:
            x.add_(1.0)
        return self.a(x), self.b(y)


def test_a_tensor_that_is_given_twice_is_one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    same = compared._same_numbers

    def counted(outcome: Any, values: Any) -> bool:
        seen.append((len(outcome.reading.module.graph.find_nodes(op="placeholder")), len(values)))
        return same(outcome, values)

    monkeypatch.setattr(compared, "_same_numbers", counted)
    x = torch.randn(16, 64)
    assert equal_on_cpu(Products(False), (x, x), "h200", FREE_EVENTS) == [True]
    assert equal_on_cpu(Products(False), (x, x.clone()), "h200", FREE_EVENTS) == [True]
    assert seen == [(5, 5), (6, 6)]


def test_inputs_that_the_graph_takes_as_one_are_not_compared() -> None:
    base = torch.randn(20, 64)
    with pytest.raises(ValueError, match="takes 5 inputs and the CPU's 6, as where inputs share memory"):
        equal_on_cpu(Products(True), (base[:16], base[4:]), "h200", FREE_EVENTS)
