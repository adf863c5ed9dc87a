"""Deep models whose layers are alike: DeepSeek V3.2 attention layers, and blocks of attention beside an MLP.

Each is made on any device, also "meta", where it has shapes only. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepseek_v32
import torch
from torch import Tensor, nn

WIDTH, HEADS = 2048, 16  # of a block of attention beside an MLP

Made = tuple[nn.Module, tuple[Any, ...]]


class AttentionLayers(nn.Module):
    """Residual DeepSeek V3.2 attention layers, a norm in front of each. Every layer has caches of its own."""

    def __init__(self, config: deepseek_v32.Config, depth: int, device: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([deepseek_v32.build(config, device, seed) for seed in range(depth)])
        with torch.device(device):
            norms = [deepseek_v32.RMSNorm(config.hidden, eps=deepseek_v32.EPSILON, dtype=config.dtype) for _ in range(depth)]
        self.norms = nn.ModuleList(norms).requires_grad_(False)

    def forward(self, hidden: Tensor, positions: Tensor, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return ``[tokens, hidden]``; the caches of each layer are updated in place."""
        for layer, norm, (kv_cache, index_cache) in zip(self.layers, self.norms, caches, strict=True):
            hidden = hidden + layer(norm(hidden), positions, kv_cache, index_cache)
        return hidden


class Block(nn.Module):
    """Attention and an MLP of one input, added to it."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, tokens, width]``."""
        normed = self.norm(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(normed).chunk(3, dim=-1))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return x + self.out(attended) + self.down(nn.functional.gelu(self.up(normed)))


def v32(depth: int, tokens: int, device: str) -> Made:
    """Return so many V3.2 attention layers of one rank of eight, and the inputs of one decode step of `tokens` sequences."""
    config = deepseek_v32.Config(tp=8, tokens=tokens)
    hidden, positions, _, _ = deepseek_v32.example_inputs(config, device)
    caches = [deepseek_v32.example_inputs(config, device, seed)[2:] for seed in range(depth)]
    return AttentionLayers(config, depth, device), (hidden, positions, caches)


def blocks(depth: int, tokens: int, device: str) -> Made:
    """Return so many blocks of attention beside an MLP, and `tokens` tokens of one sequence."""
    with torch.device(device):
        model = nn.Sequential(*(Block() for _ in range(depth))).to(torch.bfloat16)
        return model.eval().requires_grad_(False), (torch.randn(1, tokens, WIDTH).to(torch.bfloat16),)


MODELS: dict[str, Callable[[int, int, str], Made]] = {"v32": v32, "blocks": blocks}
