"""Modules for benchmarks beside those of `examples/`: many small kernels, or few large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[int], Sequence[Any]]


class GatedExperts(nn.Module):
    """A multi-gate mixture of experts: every expert sees every row, a gate for each task mixes them, a tower answers."""

    def __init__(self, width: int = 1024, experts: int = 8, tasks: int = 4, hidden: int = 512) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden)) for _ in range(experts)
        )
        self.gates = nn.ModuleList(nn.Sequential(nn.Linear(width, experts), nn.Softmax(-1)) for _ in range(tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1)) for _ in range(tasks)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one number for each task and row."""
        seen = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = [(gate(x).unsqueeze(-1) * seen).sum(1) for gate in self.gates]
        return tuple(tower(value) for tower, value in zip(self.towers, mixed, strict=True))


class WideBranches(nn.Module):
    """Three chains of large products: each kernel takes far longer than its launch."""

    def __init__(self, width: int = 2048, depth: int = 3, branches: int = 3) -> None:
        super().__init__()
        self.chains = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth)) for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the chains."""
        results = []
        for chain in self.chains:
            value = x
            for linear in chain.children():
                value = nn.functional.gelu(linear(value))
            results.append(value)
        return torch.stack(results).sum(0)


def _made(module: nn.Module, rows: int, width: int, device: str) -> tuple[nn.Module, Inputs]:
    module = module.to(device=device, dtype=torch.bfloat16).eval().requires_grad_(False)

    def inputs(seed: int) -> list[Tensor]:
        rng = torch.Generator(device).manual_seed(seed)
        return [torch.randn(rows, width, generator=rng, device=device).to(torch.bfloat16)]

    return module, inputs


def experts(device: str = "cuda") -> tuple[nn.Module, Inputs]:
    """Return a mixture of experts on 64 rows, and a maker of its inputs."""
    torch.manual_seed(0)
    return _made(GatedExperts(), 64, 1024, device)


def wide(device: str = "cuda") -> tuple[nn.Module, Inputs]:
    """Return products that take longer than their launch and leave part of the GPU idle: 256 rows of 4096."""
    torch.manual_seed(0)
    return _made(WideBranches(4096), 256, 4096, device)


def huge(device: str = "cuda") -> tuple[nn.Module, Inputs]:
    """Return products that fill the GPU: 8192 rows of 4096."""
    torch.manual_seed(0)
    return _made(WideBranches(4096, 2), 8192, 4096, device)


MORE: dict[str, Callable[..., tuple[nn.Module, Inputs]]] = {"experts": experts, "wide": wide, "huge": huge}
