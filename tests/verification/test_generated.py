"""Wrappers that Inductor generates here, for a GPU that need not be there."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from graphstreams.explaining import explain
from graphstreams.verification.wrapper import UnreadableWrapper, verify


class _Branches(torch.nn.Module):
    """Two branches, a cache write and an operator with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.left = torch.nn.Linear(4096, 4096, bias=False)
        self.right = torch.nn.Linear(4096, 4096, bias=False)
        self.norm = torch.nn.LayerNorm(4096)

    def forward(self, x: torch.Tensor, cache: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache[position] = self.norm(self.left(x))
        scores = torch.relu(self.right(x)) @ cache.t()
        return scores.sum(-1), torch.topk(scores, 4)[1], cache[:2]


@functools.cache
def _streamed() -> str:
    with torch.device("meta"):
        module = _Branches()
        inputs = (torch.empty(2, 4096), torch.empty(16, 4096), torch.empty(2, dtype=torch.int64))
    report = explain(module, inputs, target="h200", options={"min_gain": 0.0, "event_us": 0.1})
    assert report.verdict == "clean", report.reason
    return report.wrapper


def test_streamed_wrapper_is_clean() -> None:
    assert "with stream1:" in _streamed()
    assert verify(_streamed()) == []


def test_every_record_and_wait_is_needed() -> None:
    lines = _streamed().splitlines()
    syncs = [i for i, line in enumerate(lines) if re.match(r" *event\d+\.(record|wait)\(", line)]
    assert len(syncs) >= 4
    for i in syncs:
        assert verify("\n".join([*lines[:i], *lines[i + 1 :]])), lines[i]


def test_cut_wrapper_is_refused() -> None:
    lines = _streamed().splitlines()
    end = max(i for i, line in enumerate(lines) if line.strip().startswith("return ("))
    for i in range(end - 40, end):
        with pytest.raises(UnreadableWrapper):
            verify("\n".join(lines[:i]))
