"""Check constants of the CPU that a graph moves to the GPU: Inductor copies them for each kernel that reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

from graphstreams.autotuning.cuda_graph import CapturedFunction
from tests.support.captured_graphs import captures
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


class Scaled(nn.Module):
    """Two products, each scaled by numbers that forward lists on the CPU and moves."""

    def __init__(self, size: int = 512) -> None:
        super().__init__()
        self.a, self.b, self.size = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False), size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers = torch.tensor([1.0, 2.0, 0.5, 4.0] * (self.size // 4))
        return self.a(x) * numbers.to(x.device), self.b(x) + numbers.to(x.device), numbers.to(x.device) * 3


@pytest.mark.parametrize("again", [False, True], ids=["compiled", "from a cache"])
def test_streams_read_the_serial_codes_copies(again: bool) -> None:
    torch.manual_seed(0)
    module, x = Scaled().cuda(), torch.randn(16, 512, device="cuda")
    options: dict[str, Any] = {"min_gain": 0.0, "strict": True, "inductor": SAME_KERNELS}
    with fresh_cache(), torch.no_grad():
        for _ in range(1 + again):
            torch._dynamo.reset()
            expected = torch.compile(module, options=SAME_KERNELS)(x)
            streamed = torch.compile(module, backend="graphstreams", options=options)
            assert all(map(torch.equal, streamed(x), expected))
            with captures() as found:
                captured = CapturedFunction(streamed, [x])
            captured.load([x])
            captured.replay()
            assert found[0] > 0 and all(map(torch.equal, captured.outputs, expected))
