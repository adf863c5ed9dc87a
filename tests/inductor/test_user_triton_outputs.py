"""Check that kernels of a user's own are planned whatever they write into: a fresh tensor, parts of one, slices of a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from graphstreams.pipeline.explain import capture
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS


@triton.jit
def doubled(x, out, count, BLOCK: tl.constexpr):  # noqa: N803
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, 2 * tl.load(x + place, mask=place < count), mask=place < count)


tuned = triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (64, 128)], key=["count"])(doubled)


def fixed(x: Tensor, out: Tensor) -> Tensor:
    doubled[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), BLOCK=64)
    return out


def autotuned(x: Tensor, out: Tensor) -> Tensor:
    tuned[lambda chosen: (triton.cdiv(x.numel(), chosen["BLOCK"]),)](x, out, x.numel())
    return out


Run = Callable[[Tensor, Tensor], Tensor]


def _fresh(run: Run, m: Any, x: Tensor) -> Any:
    one, other = m.a(x), m.b(x)
    return m.c(run(one, torch.empty_like(one))), m.d(run(other, torch.empty_like(other)))


def _slices(run: Run, m: Any, x: Tensor) -> Any:
    one, other = m.a(x), m.b(x)
    return m.c(run(one, torch.empty_like(one))), run(other[2:6], torch.empty_like(other[2:6]))


def _parts(run: Run, m: Any, x: Tensor) -> Any:
    out = torch.empty(16, 512, device=x.device)
    run(m.a(x), out[:8])
    run(m.b(x), out[8:])
    return m.c(out)


def _filled(run: Run, m: Any, x: Tensor) -> Any:
    one, other = m.a(x), m.b(x)
    fresh, filled = run(one, torch.empty_like(one)), run(other, torch.zeros_like(other))
    return m.c(fresh) + m.d(filled), fresh


def _halves(run: Run, m: Any, x: Tensor) -> Any:
    value = m.a(x).sin()
    return m.c(run(value[:4], torch.empty_like(value[:4]))), m.d(run(value[4:], torch.empty_like(value[4:])))


class Module(nn.Module):
    """Four products around what a function makes with kernels of its own."""

    def __init__(self, function: Callable[..., Any], run: Run) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(512, 512, bias=False) for _ in range(4))
        self.function, self.run = function, run
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.run, self, x)


@pytest.mark.parametrize("run", [fixed, autotuned], ids=lambda run: run.__name__)
@pytest.mark.parametrize("function", [_fresh, _slices, _parts, _filled, _halves], ids=lambda function: function.__name__)
def test_what_a_kernel_writes_may_be_on_any_stream(function: Callable[..., Any], run: Run) -> None:
    (found,) = capture(Module(function, run), (torch.randn(8, 512),), "h200", FREE_EVENTS)
    report = found.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.plan is not None and report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    assert verify(report.wrapper) == []
    launched = [kernel for kernel in report.kernels.kernels if kernel.kind == "triton"]  # type: ignore[union-attr]
    assert launched and not any(kernel.exclusive for kernel in launched)
