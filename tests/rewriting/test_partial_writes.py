"""Check that graphs which write parts of tensors in place are clean on streams, with the launches and bits of serial code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS

WIDTH = 64


class Module(nn.Module):
    """Four products around what a function does with them and with a cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.function = function
        self.requires_grad_(False)

    def forward(self, x: Tensor, cache: Tensor) -> Any:
        return self.function(self, x, cache)


def _columns(m: Any, x: Tensor, cache: Tensor) -> Any:
    """Two products go into columns of the cache, and two others read it."""
    cache[:4, :WIDTH] = m.a(x)
    cache[:4, WIDTH:] = m.b(x)
    return m.c(cache[:, :WIDTH].sin()), m.d(cache[:, WIDTH:].cos())


def _rows(m: Any, x: Tensor, cache: Tensor) -> Any:
    """Rows are written at places that are computed, and the rest is read."""
    rows = torch.arange(1, 8, 2, device=x.device)
    cache[rows, :WIDTH] = m.a(x)
    return m.c(cache[:, :WIDTH]).sum(0), m.b(x).exp(), m.d(x)


def _rolling(m: Any, x: Tensor, cache: Tensor) -> Any:
    """A state loses its first rows, and a product goes behind the others."""
    kept = cache[4:, :WIDTH].clone()
    cache[:4, :WIDTH] = kept[:4]
    cache[4:, :WIDTH] = m.a(x)
    return m.c(cache[:, :WIDTH]), m.d(m.b(x))


def _rotated(m: Any, x: Tensor, cache: Tensor) -> Any:
    """A half of each head of a product that is split is rotated in place."""
    query, key = torch.cat((m.a(x), m.b(x)), -1).view(4, 2, WIDTH).unbind(1)
    for heads in (query, key):
        half = heads[:, : WIDTH // 2]
        half.copy_(half.roll(1, -1) * 0.5 + half.sin())
    return m.c(query), m.d(key), cache[:4, :WIDTH] + query


def _filled(m: Any, x: Tensor, cache: Tensor) -> Any:
    """A fresh tensor is filled in parts, which different kernels make."""
    out = torch.empty(8, WIDTH, device=x.device)
    out[:4] = m.a(x)
    out[4:] = m.b(x).relu()
    return m.c(out), m.d(cache[:, :WIDTH])


def _counted(m: Any, x: Tensor, cache: Tensor) -> Any:
    """An input is changed by its own value, between two readers of it."""
    before = m.a(cache[:4, :WIDTH])
    cache.mul_(0.5).add_(1)
    return before, m.b(cache[4:, :WIDTH]), m.c(x), m.d(x)


@pytest.mark.parametrize(
    "function", [_columns, _rows, _rolling, _rotated, _filled, _counted], ids=lambda function: function.__name__
)
def test_parts_that_are_written_in_place(function: Callable[..., Any]) -> None:
    module, values = Module(function), (torch.randn(4, WIDTH), torch.randn(8, 2 * WIDTH))
    (found,) = capture(module, values, "h200", FREE_EVENTS)
    report = found.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.plan is not None and report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    assert verify(report.wrapper) == []
    assert equal_as_captured(module, values, [found]) == [True]
