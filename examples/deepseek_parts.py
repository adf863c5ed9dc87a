"""Cut the layer and the block of the V3.2 examples into the parts that serving engines put beside each other by hand.

A compiled graph needs no such cuts: they serve those variants of `bench_deepseek.py` that name what runs on which stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from deepseek_pre_attention import PreAttention
from deepseek_v32 import Operand, SparseAttention, apply_rope, operand
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Parts(torch.nn.Module, ABC):
    """A module as functions of tensors. No part returns a view of its arguments, or two tensors that share memory.

    `shared` is what the products of the hidden states take (`operand`): these themselves, or quantized once for an fp8 layer.
    Each part indexes the table of cosines by itself, which Inductor fuses into the rotation. Indexed once for all parts, it
    would be another kernel, for which every stream waits.
    """

    def __init__(self, layer: SparseAttention) -> None:
        super().__init__()
        self.layer = layer

    def shared(self, hidden: Tensor) -> Operand:
        """Return what the products of the hidden states take."""
        return operand(self.layer.config, hidden)

    def down(self, shared: Operand) -> tuple[Operand, Tensor]:
        """Return `(q_c, qkv_a)`: the normalized query part of the down projection as an operand, and all of it."""
        qkv_a = self.layer.fused_qkv_a_proj(shared)
        return operand(self.layer.config, self.layer.q_a_layernorm(qkv_a[:, : self.layer.config.q_lora])), qkv_a

    def key(self, hidden: Tensor, shared: Operand) -> tuple[Tensor, Tensor]:
        """Return `(key, projected)`: the indexer's key, normalized but not rotated, and a product that ends in its weights.

        In bf16 it is the product that makes both; with fp8 the weights have one of their own.
        """
        indexer, config = self.layer.indexer, self.layer.config
        if config.fp8:
            key, projected = indexer._key_and_weights(hidden, shared)
        else:
            projected = indexer.wk_weights_proj(hidden)
            key = projected[:, : config.index_dim]
        return indexer.k_norm(key.float()).to(hidden.dtype), projected

    def logits(self, q_c: Operand, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        """Write the rotated key into the cache and return the indexer's logits `[T, context]`."""
        indexer, config, cos_sin = self.layer.indexer, self.layer.config, self.layer.cos_sin[positions]
        rows = torch.arange(positions.shape[0], device=positions.device)
        index_cache.index_put_((rows, positions), indexer._rotate(key.unsqueeze(1), cos_sin).squeeze(1))
        query = indexer._rotate(indexer.wq_b(q_c).unflatten(-1, (config.index_heads, config.index_dim)), cos_sin)
        return indexer._logits(query, projected[:, -config.index_heads :], index_cache)

    def latent(self, qkv_a: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized latent and the rotated key of this step."""
        config, cos_sin = self.layer.config, self.layer.cos_sin[positions]
        _, kv_a, k_pe = qkv_a.split((config.q_lora, config.kv_lora, config.rope), dim=-1)
        return self.layer.kv_a_layernorm(kv_a), apply_rope(k_pe.unsqueeze(1), cos_sin, interleaved=True).squeeze(1)

    @abstractmethod
    def query(self, q_c: Operand, positions: Tensor) -> Tensor:
        """Return the rotated query of every head."""

    @abstractmethod
    def chosen(self, q_c: Operand, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        """Return what the indexer selects, and write its cache."""

    @abstractmethod
    def kept(self, qkv_a: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        """Return this step's latent as outputs, or write it to the first of `caches` and return nothing."""

    @abstractmethod
    def finish(self, query: Tensor, chosen: Tensor, kept: Tensors, positions: Tensor, *caches: Tensor) -> Tensor | Tensors:
        """Return the module's outputs."""


class BlockParts(Parts):
    """The parts of `PreAttention`."""

    def query(self, q_c: Operand, positions: Tensor) -> Tensor:
        config = self.layer.config
        query = self.layer.q_b_proj(q_c).unflatten(-1, (-1, config.nope + config.rope))
        nope, rotary = query.split((config.nope, config.rope), dim=-1)
        return torch.cat((nope, apply_rope(rotary, self.layer.cos_sin[positions], interleaved=True)), dim=-1)

    def chosen(self, q_c: Operand, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        logits = self.logits(q_c, key, projected, positions, index_cache)
        return logits > logits.mean(dim=-1, keepdim=True)

    def kept(self, qkv_a: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        return self.latent(qkv_a, positions)

    def finish(self, query: Tensor, chosen: Tensor, kept: Tensors, positions: Tensor, *caches: Tensor) -> Tensors:
        return query, *kept, chosen


class LayerParts(Parts):
    """The parts of `SparseAttention`. Its caches are those of the latents and of the indexer."""

    def query(self, q_c: Operand, positions: Tensor) -> Tensor:
        return self.layer._absorbed_query(q_c, self.layer.cos_sin[positions])

    def chosen(self, q_c: Operand, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor) -> Tensor:
        logits = self.logits(q_c, key, projected, positions, index_cache)
        future = torch.arange(index_cache.shape[1], device=positions.device) > positions.unsqueeze(1)
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
    """Return the parts of a `SparseAttention` or a `PreAttention`, which share its weights."""
    if isinstance(module, PreAttention):
        return BlockParts(module.layer)
    if isinstance(module, SparseAttention):
        return LayerParts(module)
    raise TypeError(f"no parts are known for {type(module).__name__}")
