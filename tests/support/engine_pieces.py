"""Pieces of models as vLLM 0.33 hands them to Inductor, with operators of the same schemas under a namespace of our own.

The sizes are those of the public configuration of DeepSeek-V3.2. vLLM cuts a graph at its attention operators, so the piece
before them holds the projections, the norms, RoPE and the quantisation. Names of layers are objects that a graph is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._custom_class_base import CustomClassBase
from torch._library.opaque_object import register_custom_class

NAMESPACE = "graphstreams_engine"
FP8 = torch.float8_e4m3fn
CACHE = "engine_cache"


class LayerName(CustomClassBase):
    """The name of a layer, by which an operator finds the layer's cache; a constant, as vLLM registers it."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerName) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __fx_repr__(self) -> tuple[str, dict[str, type]]:
        return f"LayerName({self.value!r})", {"LayerName": LayerName}


register_custom_class(LayerName, typ="constant", hoist=True)


@torch.library.custom_op(f"{NAMESPACE}::fused_qkv_a_proj", mutates_args=())
def fused_qkv_a_proj(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` times the transposed weight, as vLLM's `min_latency_fused_qkv_a_proj`."""
    return x @ weight.t()


@fused_qkv_a_proj.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op(f"{NAMESPACE}::cutlass_scaled_mm", mutates_args={"out"})
def scaled_mm(out: Tensor, a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> None:
    """Write the product of FP8 matrices with scales for each row of `a` and each column of `b`, as vLLM's `_C` operator."""
    out.copy_(((a.float() * a_scales) @ (b.float() * b_scales)).to(out.dtype))


@torch.library.custom_op(f"{NAMESPACE}::dynamic_per_token_scaled_fp8_quant", mutates_args={"result", "scale"})
def per_token_quant(result: Tensor, input: Tensor, scale: Tensor) -> None:
    """Write `input` in FP8 and the scale of each row, as vLLM's `_C` operator."""
    scale.copy_(input.float().abs().amax(-1, keepdim=True).clamp(min=1e-6) / 448)
    result.copy_((input.float() / scale).to(FP8))


@torch.library.custom_op(f"{NAMESPACE}::unified_attention_with_output", mutates_args={"output"})
def attention(query: Tensor, key: Tensor, value: Tensor, output: Tensor, layer_name: LayerName, updated: Tensor) -> None:
    """Write attention over what the layer's cache holds; here over the tokens of the call. `updated` orders it."""
    output.copy_(nn.functional.scaled_dot_product_attention(query, key, value))


@torch.library.custom_op(f"{NAMESPACE}::unified_kv_cache_update", mutates_args=())
def cache_update(key: Tensor, value: Tensor, layer_name: LayerName) -> Tensor:
    """Put keys and values into the layer's cache. What it returns is an argument of the attention, and orders the two."""
    return key.new_empty(0)


@cache_update.register_fake
def _(key: Tensor, value: Tensor, layer_name: LayerName) -> Tensor:
    return key.new_empty(0)


PRODUCTS = {f"{NAMESPACE}::{name}": () for name in
            ("fused_qkv_a_proj", "cutlass_scaled_mm", "dynamic_per_token_scaled_fp8_quant")}  # fmt: skip
CACHED = {f"{NAMESPACE}::{name}": (CACHE,) for name in ("unified_attention_with_output", "unified_kv_cache_update")}


@dataclass(frozen=True)
class Sizes:
    """The sizes of the piece before attention, for one rank."""

    hidden: int = 7168
    q_lora: int = 1536
    kv_lora: int = 512
    rope: int = 64
    heads: int = 128
    nope: int = 128
    index_heads: int = 64
    index_dim: int = 128


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return the RMS norm over the last dimension, computed in fp32."""
    return nn.functional.rms_norm(x.float(), weight.shape, weight.float(), 1e-6).to(x.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `[..., dim]` with its two halves rotated."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class BeforeAttention(nn.Module):
    """V3.2 from the layer's norm to the arguments of the indexer and of attention, in bf16 or, as served, with FP8 products."""

    def __init__(self, sizes: Sizes = Sizes(), fp8: bool = False) -> None:
        super().__init__()
        self.sizes, self.fp8 = sizes, fp8
        s = sizes
        shapes = {
            "qkv_a": (s.q_lora + s.kv_lora + s.rope, s.hidden), "q_b": (s.heads * (s.nope + s.rope), s.q_lora),
            "wq_b": (s.index_heads * s.index_dim, s.q_lora), "wk_weights": (s.index_dim + s.index_heads, s.hidden),
        }  # fmt: skip
        for name, shape in shapes.items():
            narrow = fp8 and name != "wk_weights"
            self.register_buffer(name, torch.empty(shape, dtype=FP8 if narrow else torch.bfloat16))
            self.register_buffer(f"{name}_scale", torch.ones(1, shape[0]))
        for name, size in (("norm", s.hidden), ("q_a_norm", s.q_lora), ("kv_a_norm", s.kv_lora), ("k_norm", s.index_dim)):
            self.register_buffer(name, torch.ones(size, dtype=torch.bfloat16))
        self.register_buffer("table", torch.empty(4096, s.rope))

    def forward(self, hidden: Tensor, residual: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Return the residual, the query, the compressed keys and values, and the indexer's query, key and weights.

        `hidden` and `residual` are `[T, hidden]`, `positions` int64 `[T]`.
        """
        s = self.sizes
        residual = hidden + residual
        normed = rms_norm(residual, self.norm)
        q_c, kv_c, k_pe = self._first(normed).split([s.q_lora, s.kv_lora, s.rope], dim=-1)
        cos, sin = self.table[positions].chunk(2, dim=-1)
        q_c, kv_c, k_pe = rms_norm(q_c, self.q_a_norm), rms_norm(kv_c, self.kv_a_norm), rotated(k_pe, cos, sin)
        q = self._product("q_b", q_c).unflatten(-1, (s.heads, -1))
        q_nope, q_pe = q.split([s.nope, s.rope], dim=-1)
        query = torch.cat((q_nope, rotated(q_pe, cos[:, None], sin[:, None])), dim=-1)
        index_query = self._product("wq_b", q_c).unflatten(-1, (s.index_heads, -1))
        turned, kept = index_query.split([s.rope, s.index_dim - s.rope], dim=-1)
        index_query = torch.cat((rotated(turned, cos[:, None], sin[:, None]), kept), dim=-1)
        key, weights = (normed @ self.wk_weights.t()).split([s.index_dim, s.index_heads], dim=-1)
        key = nn.functional.layer_norm(key.float(), key.shape[-1:], self.k_norm.float()).to(key.dtype)
        turned, kept = key.split([s.rope, s.index_dim - s.rope], dim=-1)
        key = torch.cat((rotated(turned, cos, sin), kept), dim=-1)
        scale = index_query.float().abs().amax(-1).clamp(min=1e-6) / 448
        narrow = (index_query.float() / scale[..., None]).to(FP8)
        return residual, query, kv_c, k_pe, narrow, key, weights.float() * scale

    def _first(self, x: Tensor) -> Tensor:
        return self._product("qkv_a", x) if self.fp8 else fused_qkv_a_proj(x, self.qkv_a)

    def _product(self, name: str, x: Tensor) -> Tensor:
        weight = self.get_buffer(name)
        if not self.fp8:
            return x @ weight.t()
        narrow, scale = torch.empty_like(x, dtype=FP8), x.new_empty((x.shape[0], 1), dtype=torch.float32)
        per_token_quant(narrow, x, scale)
        out = x.new_empty(x.shape[0], weight.shape[0])
        scaled_mm(out, narrow, weight.t(), scale, self.get_buffer(f"{name}_scale"))
        return out


def piece(tokens: int, fp8: bool = False) -> tuple[BeforeAttention, tuple[Tensor, ...]]:
    """Return the piece at full size and its inputs, all on the meta device."""
    with torch.device("meta"):
        module = BeforeAttention(fp8=fp8)
        hidden, residual = (torch.empty(tokens, module.sizes.hidden, dtype=torch.bfloat16) for _ in range(2))
        return module, (hidden, residual, torch.empty(tokens, dtype=torch.int64))


class Uncut(nn.Module):
    """Parallel attention and MLP in one graph, as under vLLM's FULL CUDA graphs; operators get the layer's name."""

    def __init__(self, hidden: int = 4096, intermediate: int = 14336, heads: int = 32) -> None:
        super().__init__()
        self.heads, self.name = heads, LayerName("model.layers.0.self_attn.attn")
        linear = {"bias": False, "dtype": torch.bfloat16}
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, **linear), nn.Linear(hidden, hidden, **linear)
        self.up, self.down = nn.Linear(hidden, intermediate, **linear), nn.Linear(intermediate, hidden, **linear)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `[T, hidden]`."""
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(hidden).chunk(3, dim=-1))
        output = torch.empty_like(query)
        updated = cache_update(key, value, self.name)
        attention(query, key, value, output, self.name, updated)
        return hidden + self.out(output.flatten(1)) + self.down(nn.functional.silu(self.up(hidden)))
