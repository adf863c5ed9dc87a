"""Check graphs with values on the CPU: floats of a call, and tensors that the forward moves to the GPU, on any streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphstreams.pipeline.explain import capture
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS


class Scaled(nn.Module):
    """Two chains of products, each scaled by numbers of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(2048, 2048, bias=False) for _ in range(4))

    def forward(self, x: Tensor, *numbers: float) -> Tensor:
        one, other = self.b(self.a(x)), self.d(self.c(x))
        for number in numbers:
            one, other = one * number, other * number
        return self.a(one) + self.c(other)


class Moved(nn.Module):
    """Two products, each with what the forward moves to their device."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = (nn.Linear(256, 256, bias=False) for _ in range(2))
        self.table = nn.Embedding(16, 256)

    def forward(self, x: Tensor, held: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        moved = torch.from_numpy(held).to(x.device, non_blocking=self.how == "without waiting")
        added = self.table(moved) if self.how == "indices" else moved
        return self.a(x) * added, self.b(x) + added


@pytest.mark.parametrize("numbers", [(0.7,), (0.7, 1.25)])
def test_floats_of_a_call_are_used_on_several_streams(numbers: tuple[float, ...]) -> None:
    with torch.device("meta"):
        module, x = Scaled().bfloat16().requires_grad_(False), torch.empty(8, 2048, dtype=torch.bfloat16)
    (found,) = capture(module, (x, *numbers), "h200", {"min_gain": 0.0}, dynamic=True)
    report = found.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.plan is not None and report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    # Inductor leaves the device guard for a value on the CPU: once, behind the join.
    assert report.wrapper.count("_acquire_streams(") == 1 and verify(report.wrapper) == []


@pytest.mark.parametrize("how", ["at once", "without waiting", "indices"])
def test_what_the_forward_moves_to_the_gpu_is_used_on_several_streams(how: str) -> None:
    """An array of NumPy stays on the CPU, whatever the other inputs are planned for."""
    held: Any = np.array([1, 2, 3, 4]) if how == "indices" else np.ones(256, dtype=np.float32)
    (found,) = capture(Moved(how).requires_grad_(False), (torch.randn(4, 256), held), "h200", FREE_EVENTS)
    report = found.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.kernels_streamed == report.kernels_serial
    assert verify(report.wrapper) == []
