"""Check on a GPU that a piece which vLLM compiles for a single size is measured on inputs made from shapes."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.support.vllm_stub import Range, stubbed


class Branches(nn.Module):
    """Three chains of products that meet at the end."""

    def __init__(self, width: int = 2048) -> None:
        super().__init__()
        made = [nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(6)]
        self.first, self.second = nn.ModuleList(made[:3]), nn.ModuleList(made[3:])

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the chains, in the order of `rows`."""
        found = [second(nn.functional.silu(first(x))) for first, second in zip(self.first, self.second, strict=True)]
        return (found[0] + found[1] + found[2])[rows]


@pytest.mark.gpu
@torch.inference_mode()
def test_a_single_size_is_measured_on_inputs_made_from_shapes() -> None:
    module = Branches().cuda().requires_grad_(False)
    values = torch.randn(8, 2048, dtype=torch.bfloat16, device="cuda"), torch.randperm(8, device="cuda")
    expected = module(*values)
    with stubbed() as passes:
        passes._pass_context = SimpleNamespace(compile_range=Range(8, 8))
        each = importlib.import_module("graphstreams.integrations.vllm").VllmPass({"min_gain": 0.0})
        settings = {"post_grad_custom_post_pass": each, "force_disable_caches": True}
        torch._dynamo.reset()
        compiled = torch.compile(module, options=settings)
        direct = compiled(*values)
        (report,) = each.reports
    assert report.measurement is not None, report.notes
    assert report.name.endswith("_tokens_8_8")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compiled(*values)
    graph.replay()
    first = captured.clone()
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, first)
    for found in (first, direct):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
