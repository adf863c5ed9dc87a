"""Check that a launch of a convolution, of its bias or of a copy in another layout is a kernel that is planned by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config

from graphstreams.pipeline.explain import capture, explain
from graphstreams.testing.equal_on_cpu import equal_as_captured, equal_on_cpu
from tests.support.sample_modules import FREE_EVENTS


class Two(nn.Module):
    """Two convolutions of one input, joined by an addition or a concatenation."""

    def __init__(self, first: nn.Module, second: nn.Module, concatenates: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.concatenates = first, second, concatenates

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.first(x).relu(), self.second(x).relu()
        return torch.cat([one, other], 1) if self.concatenates else one + other


IMAGE = (1, 16, 12, 12)
CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "biased": (lambda: Two(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)), IMAGE),
    "without bias": (lambda: Two(nn.Conv2d(16, 16, 1, bias=False), nn.Conv2d(16, 16, 3, padding=1, bias=False)), IMAGE),
    "concatenated": (lambda: Two(nn.Conv2d(16, 8, 1), nn.Conv2d(16, 24, 3, padding=1), concatenates=True), IMAGE),
    "grouped": (lambda: Two(nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.Conv2d(16, 16, 5, padding=2)), IMAGE),
    "transposed": (lambda: Two(nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(16, 8, 4, 2, 1)), IMAGE),
    "one dimension": (lambda: Two(nn.Conv1d(16, 16, 1), nn.Conv1d(16, 16, 3, padding=1)), (2, 16, 40)),
    "three dimensions": (lambda: Two(nn.Conv3d(8, 8, 1), nn.Conv3d(8, 8, 3, padding=1)), (1, 8, 6, 6, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_launch_is_a_kernel_of_the_plan(case: str) -> None:
    make, shape = CASES[case]
    torch.manual_seed(0)
    module, inputs = make().requires_grad_(False), (torch.randn(shape),)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    report = outcome.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.kernels_streamed == report.kernels_serial == len(report.kernels.kernels)
    assert report.plan.streams > 1
    assert equal_as_captured(module, inputs, [outcome]) == [True]


def test_convolutions_of_one_input_share_its_copy() -> None:
    make, shape = CASES["biased"]
    report = explain(make().requires_grad_(False), (torch.randn(shape),), "h200", FREE_EVENTS)
    copies = [kernel for kernel in report.kernels.kernels if "inductor_force_stride_order" in kernel.nodes[0]]
    assert sum("arg2_1" in {access.storage for access in kernel.reads} for kernel in copies) == 1


def test_a_convolution_without_a_batch_keeps_its_bias() -> None:
    module = Two(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)).requires_grad_(False)
    report = explain(module, (torch.randn(16, 12, 12),), "h200", FREE_EVENTS)
    assert report.verdict in ("clean", "serial"), report.reason
    assert equal_on_cpu(module, (torch.randn(16, 12, 12),), "h200", FREE_EVENTS) == [True]


def test_products_in_place_of_1x1_convolutions_are_clean() -> None:
    module = Two(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)).requires_grad_(False)
    with config.patch(conv_1x1_as_mm=True):
        report = explain(module, (torch.randn(IMAGE),), "h200", FREE_EVENTS)
    assert (report.verdict, report.reason) == ("clean", "")
