"""The part of a V3.2 attention layer before the attention, without the top-k, whose time would hide what streams gain.

The block is `deepseek_v32.py` up to the logits of the indexer; a threshold replaces the top-k. Its first GEMM makes a buffer
on one stream that a kernel on another stream reads last. If that buffer were freed when the kernel is launched, its memory
could be overwritten while it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepseek_v32 import Config, Operand, SparseAttention, apply_rope, build, example_inputs, operand
from torch import Tensor


class PreAttention(torch.nn.Module):
    """A block that returns the query, the new latent and rotated key, and which slots have logits above a threshold."""

    def __init__(self, layer: SparseAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, positions: Tensor, index_cache: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layer, config = self.layer, self.layer.config
        cos_sin = layer.cos_sin[positions]
        sizes = (config.q_lora, config.kv_lora, config.rope)
        shared = operand(config, hidden)
        q_a, kv_a, k_pe = layer.fused_qkv_a_proj(shared).split(sizes, dim=-1)
        q_c = operand(config, layer.q_a_layernorm(q_a))
        query = layer.q_b_proj(q_c).unflatten(-1, (-1, config.nope + config.rope))
        nope, rotary = query.split((config.nope, config.rope), dim=-1)
        rotary = apply_rope(rotary, cos_sin, interleaved=True)
        k_pe = apply_rope(k_pe.unsqueeze(1), cos_sin, interleaved=True).squeeze(1)
        logits = self._logits(hidden, shared, q_c, positions, cos_sin, index_cache)
        query = torch.cat((nope, rotary), dim=-1)
        return query, layer.kv_a_layernorm(kv_a), k_pe, logits > logits.mean(dim=-1, keepdim=True)

    def _logits(
        self, hidden: Tensor, shared: Operand, q_c: Operand, positions: Tensor, cos_sin: Tensor, index_cache: Tensor
    ) -> Tensor:
        """Return the indexer's logits: its forward pass without the selection of slots."""
        indexer, config = self.layer.indexer, self.layer.config
        key, weights = indexer._key_and_weights(hidden, shared)
        key = indexer._rotate(indexer.k_norm(key.float()).to(hidden.dtype).unsqueeze(1), cos_sin)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        index_cache.index_put_((rows, positions), key.squeeze(1))
        query = indexer._rotate(indexer.wq_b(q_c).unflatten(-1, (config.index_heads, config.index_dim)), cos_sin)
        return indexer._logits(query, weights, index_cache)


def pre_attention(
    heads: int = 16, tokens: int = 64, device: torch.device | str = "meta", seed: int = 0
) -> tuple[PreAttention, tuple[Tensor, Tensor, Tensor]]:
    """Return the block at full size but for its heads, and `(hidden, positions, index_cache)`; on "meta" without values."""
    config = Config(heads=heads, tokens=tokens)
    return PreAttention(build(config, device, seed)), pre_attention_inputs(config, device, seed)


def bench(tokens: int) -> tuple[PreAttention, Callable[[int], Sequence[Any]]]:
    """Return the block with 16 heads on the GPU and a maker of fresh inputs, for ``graphstreams bench``."""
    config = Config(heads=16, tokens=tokens)
    return PreAttention(build(config, "cuda")), lambda seed: pre_attention_inputs(config, "cuda", seed)


def pre_attention_inputs(config: Config, device: torch.device | str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return random `(hidden, positions, index_cache)` of the block."""
    hidden, positions, _, index_cache = example_inputs(config, device, seed)
    return hidden, positions, index_cache
