"""Build a module of two long branches, and inputs for modules of its form, on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """Two long chains from one input, joined at the end; the second also updates a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(4))
        self.second = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cache: Tensor, position: Tensor) -> Tensor:
        left, right = x, x
        for one, other in zip(self.first, self.second, strict=True):
            left, right = torch.relu(one(left)), nn.functional.silu(other(right))
        cache[position] = right
        return left + right + cache.sum(0)


def build(kind: type[nn.Module] = Branches) -> tuple[nn.Module, list[Tensor]]:
    """Return a module of `kind` and inputs for it on the GPU, the same every time: x, a cache, and the rows that x goes to."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        return kind().requires_grad_(False), [torch.randn(4, 1024), torch.randn(16, 1024), torch.arange(4)]
