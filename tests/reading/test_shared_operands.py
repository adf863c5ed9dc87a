"""Check that what several operators with a layout of their own read is one kernel's result, not a copy for each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS

F8 = torch.float8_e4m3fn
LARGEST = 448.0  # of float8_e4m3fn


class Linears(nn.Module):
    """Products in FP8 of one activation, which is quantized with a scale for each row, or with one scale for all."""

    def __init__(self, widths: tuple[int, ...], scale: str) -> None:
        super().__init__()
        self.scale = scale
        for i, width in enumerate(widths):
            self.register_buffer(f"w{i}", torch.randn(width, 2048).to(F8))
            self.register_buffer(f"s{i}", torch.rand(1, width) if scale == "row" else torch.rand(()))
        self.register_buffer("fixed", torch.tensor(0.5))
        self.count = len(widths)

    def forward(self, x: Tensor) -> Any:
        if self.scale == "fixed":
            scale = self.fixed
        else:
            largest = x.abs().amax(-1, keepdim=True) if self.scale == "row" else x.abs().amax()
            scale = largest.float() / LARGEST
        quantized = (x.float() / scale).clamp(-LARGEST, LARGEST).to(F8)
        weights = [(getattr(self, f"w{i}"), getattr(self, f"s{i}")) for i in range(self.count)]
        return tuple(torch._scaled_mm(quantized, w.t(), scale, s, out_dtype=torch.bfloat16) for w, s in weights)


def compiled(module: nn.Module, *inputs: Tensor) -> GraphCompilation:
    (found,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert found.reading is not None, found.report.reason
    return found


@pytest.mark.parametrize("scale", ["row", "all", "fixed"])
@pytest.mark.parametrize("widths", [(1024, 512), (1536, 576, 128)])
def test_products_of_one_quantized_activation_are_kernels_of_their_own(scale: str, widths: tuple[int, ...]) -> None:
    found = compiled(Linears(widths, scale), torch.randn(16, 2048, dtype=torch.bfloat16))
    kernels = found.reading.kernels.kernels  # type: ignore[union-attr]
    products = [kernel for kernel in kernels if kernel.kind == "gemm"]
    assert [len(kernel.launches) for kernel in products] == [1] * len(widths)
    before = found.reading.kernels.predecessors()  # type: ignore[union-attr]
    identities = {kernel.id for kernel in products}
    assert all(before[kernel.id] and not set(before[kernel.id]) & identities for kernel in products)
    report = found.report
    assert (report.verdict, verify(report.wrapper)) == ("clean", []), report.reason
    assert report.kernels_streamed == report.kernels_serial
    assert report.plan is not None and report.plan.streams > 1


def test_one_product_has_its_quantization_before_it() -> None:
    """Nobody else reads the copy, so it needs no name of its own."""
    (found,) = capture(Linears((512,), "row"), (torch.randn(16, 2048, dtype=torch.bfloat16),), "h200", FREE_EVENTS)
    assert found.report.verdict == "serial" and "launches are one unit, '_scaled_mm'" in found.report.reason
