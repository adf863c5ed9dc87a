"""Check on the GPU that prefetches run, also in a CUDA graph beside other kernels, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.benchmark.bits import equal_bits
from graphstreams.kernels.prefetch import FORMS, Prefetch, form_name, launch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_a_prefetch_changes_nothing(form: Prefetch) -> None:
    weight = torch.randn(700, 2112, device="cuda", dtype=torch.bfloat16)
    before = weight.clone()
    for programs in (1, 48, 500):
        for size in (None, 128, 8192, 1_000_001, 10**9):
            launch(replace(form, programs=programs), weight, size)
    torch.cuda.synchronize()
    assert equal_bits([before], [weight])


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_a_product_behind_a_prefetch_has_the_same_bits(form: Prefetch) -> None:
    weight = torch.randn(2048, 2112, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(1, 2112, device="cuda", dtype=torch.bfloat16)
    side = torch.cuda.Stream()

    def step(x: torch.Tensor) -> torch.Tensor:
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            launch(form, weight)
        y = x * 2
        current.wait_stream(side)
        return y @ weight.t()

    captured = CapturedFunction(step, [x])
    for seed in range(5):
        x = torch.randn(1, 2112, device="cuda", generator=torch.Generator("cuda").manual_seed(seed)).bfloat16()
        captured.load([x])
        captured.replay()
        assert equal_bits([(x * 2) @ weight.t()], captured.outputs)
