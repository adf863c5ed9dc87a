"""The layer and the block of the V3.2 examples, cut into the parts that serving engines put beside each other by hand.

A compiled graph needs no such cuts: they serve the rivals of `bench_deepseek.py`, which name what runs on which stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from deepseek_pre_attention import PreAttention
from deepseek_v32 import SparseAttention, apply_rope
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Parts(torch.nn.Module, ABC):
    """One module as functions of tensors. No part returns a view of what it was given, nor two of the same memory.

    Rows of the table of cosines are taken in each part, where Inductor fuses that into the rotation; taken once, they would
    be a kernel of their own in front of every stream.
    """

    def __init__(self, layer: SparseAttention) -> None:
        super().__init__()
        if layer.config.fp8:
            raise ValueError("the parts need the fused GEMM of the indexer's key, which an fp8 layer does not have")
        self.layer = layer

    def down(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`(q_c, qkv_a)`: the down projection whole, and its normalised query part."""
        qkv_a = self.layer.fused_qkv_a_proj(hidden)
        return self.layer.q_a_layernorm(qkv_a[:, : self.layer.config.q_lora]), qkv_a

    def key(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`(key, projected)`: the indexer's key, normalised but not rotated, and the GEMM's output, with its weights."""
        projected = self.layer.indexer.wk_weights_proj(hidden)
        key = projected[:, : self.layer.config.index_dim]
        return self.layer.indexer.k_norm(key.float()).to(hidden.dtype), projected

    def logits(self, q_c: Tensor, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        """Writes the rotated key into the cache; returns the indexer's logits `[T, context]`."""
        indexer, config, cos_sin = self.layer.indexer, self.layer.config, self.layer.cos_sin[positions]
        rows = torch.arange(q_c.shape[0], device=q_c.device)
        index_cache.index_put_((rows, positions), indexer._rotate(key.unsqueeze(1), cos_sin).squeeze(1))
        query = indexer._rotate(indexer.wq_b(q_c).unflatten(-1, (config.index_heads, config.index_dim)), cos_sin)
        return indexer._logits(query, projected[:, config.index_dim :], index_cache)

    def latent(self, qkv_a: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised latent and the rotated key of this step."""
        config, cos_sin = self.layer.config, self.layer.cos_sin[positions]
        _, kv_a, k_pe = qkv_a.split((config.q_lora, config.kv_lora, config.rope), dim=-1)
        return self.layer.kv_a_layernorm(kv_a), apply_rope(k_pe.unsqueeze(1), cos_sin, interleaved=True).squeeze(1)

    @abstractmethod
    def query(self, q_c: Tensor, positions: Tensor) -> Tensor:
        """The rotated query of every head."""

    @abstractmethod
    def chosen(self, q_c: Tensor, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        """What the indexer chooses; writes its cache."""

    @abstractmethod
    def kept(self, qkv_a: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        """What becomes of this step's latent: outputs, or a write to the first of `caches`."""

    @abstractmethod
    def finish(self, query: Tensor, chosen: Tensor, kept: Tensors, positions: Tensor, *caches: Tensor) -> Tensor | Tensors:
        """The module's outputs."""


class BlockParts(Parts):
    """`PreAttention` in parts."""

    def query(self, q_c: Tensor, positions: Tensor) -> Tensor:
        config = self.layer.config
        query = self.layer.q_b_proj(q_c).unflatten(-1, (-1, config.nope + config.rope))
        nope, rotary = query.split((config.nope, config.rope), dim=-1)
        return torch.cat((nope, apply_rope(rotary, self.layer.cos_sin[positions], interleaved=True)), dim=-1)

    def chosen(self, q_c: Tensor, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        logits = self.logits(q_c, key, projected, positions, index_cache)
        return logits > logits.mean(dim=-1, keepdim=True)

    def kept(self, qkv_a: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        return self.latent(qkv_a, positions)

    def finish(self, query: Tensor, chosen: Tensor, kept: Tensors, positions: Tensor, *caches: Tensor) -> Tensors:
        return query, *kept, chosen


class LayerParts(Parts):
    """`SparseAttention` in parts. Its caches are those of the latents and of the indexer."""

    def query(self, q_c: Tensor, positions: Tensor) -> Tensor:
        return self.layer._absorbed_query(q_c, self.layer.cos_sin[positions])

    def chosen(self, q_c: Tensor, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        logits = self.logits(q_c, key, projected, positions, index_cache)
        future = torch.arange(index_cache.shape[1], device=q_c.device) > positions.unsqueeze(1)
        return logits.masked_fill(future, -torch.inf).topk(self.layer.config.topk, dim=-1, sorted=False).indices

    def kept(self, qkv_a: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        rows = torch.arange(qkv_a.shape[0], device=qkv_a.device)
        caches[0].index_put_((rows, positions), torch.cat(self.latent(qkv_a, positions), dim=-1))
        return ()

    def finish(self, query: Tensor, chosen: Tensor, kept: Tensors, positions: Tensor, *caches: Tensor) -> Tensor:
        layer, rows = self.layer, torch.arange(query.shape[0], device=query.device)
        visible = chosen <= positions.unsqueeze(1)
        attended = layer._attend(query, caches[0][rows.unsqueeze(1), chosen], visible)
        return layer.o_proj(torch.bmm(attended.transpose(0, 1), layer.w_uv).transpose(0, 1).flatten(1))


def parts_of(module: torch.nn.Module) -> Parts:
    """The parts of a `SparseAttention` or a `PreAttention`, which share its weights."""
    if isinstance(module, PreAttention):
        return BlockParts(module.layer)
    if isinstance(module, SparseAttention):
        return LayerParts(module)
    raise TypeError(f"no parts are known for {type(module).__name__}")
