"""Check on the GPU that prefetches run, also in a CUDA graph beside other kernels, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.benchmark.bits import equal_bits
from graphstreams.inductor.prefetch import Behind, PrefetchPass, Rule, place
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


LOADS = Prefetch("load", 96, 8, 32_768)


class _Layer(torch.nn.Module):
    """Two products with a chain of small kernels and a top-k between; what prefetches write is returned beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Linear(4096, 4096, bias=False, dtype=torch.bfloat16) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        scores = self.first(x).float().sin()
        values = scores.topk(2048, dim=-1, sorted=False).values.softmax(-1)
        y = self.second(torch.cat([values, values.cos()], -1).bfloat16())
        return y, [place(LOADS, x.device) for _ in range(2)]


@pytest.mark.parametrize("behind", ["start", "product", "top-k"])
def test_a_graph_with_prefetches_has_the_same_bits(behind: Behind) -> None:
    with torch.no_grad(), torch.device("cuda"):
        module, inputs = _Layer(), [torch.randn(1, 4096, dtype=torch.bfloat16) for _ in range(5)]
        settings = {"deterministic": True}
        serial = torch.compile(module, options=settings)
        added = PrefetchPass(Rule(LOADS, 32_000_000, behind=behind))
        given = {**settings, "post_grad_custom_post_pass": added}
        options = {"inductor": given, "costs": "roofline", "search": 0, "min_gain": 0.0, "event_us": 0.0}
        streamed = torch.compile(module, backend="graphstreams", options=options)
        expected = [serial(x)[0].clone() for x in inputs]
        streamed(inputs[0])
        captured = CapturedFunction(lambda x: streamed(x)[0], [inputs[0]])
        assert added.added == (1 if behind == "top-k" else 2)
        for x, result in zip(inputs, expected, strict=True):
            captured.load([x])
            captured.replay()
            assert equal_bits([result], captured.outputs)
