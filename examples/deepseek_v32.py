"""A DeepSeek V3.2 attention layer at decode, in plain PyTorch: absorbed latent attention with its sparse indexer.

Sizes and the order of the steps follow the DeepSeek V3.2-Exp inference code. The projections are fused as in
vLLM, whose pull requests 39308 and 39943 overlap the same kernels by hand. The layer is one rank's share under tensor
parallelism, without the all-reduce after ``o_proj``; RoPE is plain, because YaRN would change constants only.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from plan_layer import Layer, add_arguments, plan_layer
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max
EPSILON = 1e-6


@dataclass(frozen=True)
class Config:
    """The sizes of the layer. ``heads`` counts all ranks; each rank has ``heads // tp`` and the whole indexer."""

    hidden: int = 7168
    q_lora: int = 1536
    kv_lora: int = 512
    nope: int = 128
    rope: int = 64
    v_dim: int = 128
    heads: int = 128
    index_heads: int = 64
    index_dim: int = 128
    topk: int = 2048
    context: int = 4096
    tokens: int = 1
    tp: int = 1
    fp8: bool = False
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if self.tp < 1 or self.heads % self.tp:
            raise ValueError(f"heads ({self.heads}) must be a multiple of tp ({self.tp})")
        if not 1 <= self.topk <= self.context:
            raise ValueError(f"topk must lie in 1..context ({self.context}), got {self.topk}")
        # On CUDA, torch._scaled_mm with a scale per row returns bfloat16 only.
        if self.fp8 and self.dtype != torch.bfloat16:
            raise ValueError(f"fp8 needs dtype bfloat16, got {self.dtype}")

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """Return sizes small enough for a CPU; ``changes`` replace single fields."""
        widths = {"hidden": 64, "q_lora": 48, "kv_lora": 32, "nope": 16, "rope": 16, "v_dim": 16, "index_dim": 32}
        counts = {"heads": 4, "index_heads": 16, "topk": 8, "context": 32, "tokens": 3}
        return cls(**{**widths, **counts, **changes})


def _frozen(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


def quantize(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return ``x`` in float8_e4m3fn and the fp32 scale that undoes it, of size 1 along ``dim``."""
    scale = x.float().abs().amax(dim, keepdim=True).clamp(min=1e-12) / FLOAT8_MAX
    # After rounding, the quotient can exceed the largest float8, which the cast would turn into a NaN.
    return (x.float() / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale


class Linear(nn.Module):
    """A product ``[T, in] -> [T, out]`` in one dtype, without bias. Unlike nn.Linear it leaves its weight uninitialized."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = _frozen(out_features, in_features, dtype=dtype)

    def load(self, weight: Tensor) -> None:
        """Store a weight ``[out, in]`` of any float dtype."""
        self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class Float8Linear(Linear):
    """An fp8 product ``[T, in] -> [T, out]`` bfloat16: one scale for the weight, a dynamic one for each token."""

    def __init__(self, in_features: int, out_features: int) -> None:
        if in_features % 16 or out_features % 16:
            raise ValueError(f"an fp8 GEMM needs multiples of 16, got {in_features} -> {out_features}")
        super().__init__(in_features, out_features, FLOAT8)
        # Scales of both operands must have the same granularity, so the one value is stored for every output.
        self.weight_scale = _frozen(1, out_features, dtype=torch.float32)

    def load(self, weight: Tensor) -> None:
        """Quantize and store a weight ``[out, in]`` of any float dtype."""
        quantized, scale = quantize(weight, (0, 1))
        self.weight.copy_(quantized)
        self.weight_scale.copy_(scale.expand_as(self.weight_scale))

    def forward(self, x: Tensor) -> Tensor:
        # A scale per token, not per tensor, keeps a sequence's result independent of its neighbours in the batch.
        quantized, scale = quantize(x, -1)
        weight, weight_scale = self.weight.t(), self.weight_scale
        return torch._scaled_mm(quantized, weight, scale_a=scale, scale_b=weight_scale, out_dtype=torch.bfloat16)


def _linear(config: Config, in_features: int, out_features: int) -> Linear:
    return Float8Linear(in_features, out_features) if config.fp8 else Linear(in_features, out_features, config.dtype)


class RMSNorm(nn.RMSNorm):
    """A norm over the last dimension, computed in fp32 and returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


def rope_table(context: int, rope: int, theta: float = 10000.0) -> Tensor:
    """Return cosines, then sines, of every position: fp32 ``[context, rope]``."""
    frequencies = theta ** (-torch.arange(0, rope, 2, dtype=torch.float32) / rope)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def apply_rope(x: Tensor, cos_sin: Tensor, interleaved: bool) -> Tensor:
    """Rotate ``x`` ``[T, heads, rope]`` by ``cos_sin`` fp32 ``[T, rope]``; keep shape and dtype.

    Pairs are neighbours if ``interleaved``, else element i of either half. DeepSeek V3.2-Exp rotates neighbours in
    attention and halves in the indexer.
    """
    cos, sin = cos_sin.unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x.float().chunk(2, dim=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    joined = torch.stack(rotated, dim=-1).flatten(-2) if interleaved else torch.cat(rotated, dim=-1)
    return joined.to(x.dtype)


class Indexer(nn.Module):
    """The module that selects the ``topk`` cache slots that each token attends to."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.fp8:
            # The checkpoint keeps weights_proj in bfloat16, so it cannot share an fp8 GEMM with wk.
            self.wk = _linear(config, config.hidden, config.index_dim)
            self.weights_proj = Linear(config.hidden, config.index_heads, config.dtype)
        else:
            self.wk_weights_proj = _linear(config, config.hidden, config.index_dim + config.index_heads)
        self.k_norm = nn.LayerNorm(config.index_dim, eps=EPSILON, dtype=torch.float32)
        self.wq_b = _linear(config, config.q_lora, config.index_heads * config.index_dim)

    def forward(self, hidden: Tensor, q_c: Tensor, positions: Tensor, cos_sin: Tensor, index_cache: Tensor) -> Tensor:
        """Write this step's key into ``index_cache`` and return slots ``[T, topk]`` int64, in no particular order.

        ``hidden`` is ``[T, hidden]``, ``q_c`` ``[T, q_lora]``, ``cos_sin`` fp32 ``[T, rope]``. A token at a position
        below ``topk - 1`` has too few slots to select from: the rest of its row lies beyond its position.
        """
        key, weights = self._key_and_weights(hidden)
        key = self._rotate(self.k_norm(key.float()).to(hidden.dtype).unsqueeze(1), cos_sin)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        index_cache.index_put_((rows, positions), key.squeeze(1))
        query = self._rotate(self.wq_b(q_c).unflatten(-1, (self.config.index_heads, self.config.index_dim)), cos_sin)
        logits = self._logits(query, weights, index_cache)
        future = torch.arange(index_cache.shape[1], device=hidden.device) > positions.unsqueeze(1)
        # Attention does not depend on the order of its slots, and sorting them takes an H200 as long as selecting them.
        return logits.masked_fill(future, -torch.inf).topk(self.config.topk, dim=-1, sorted=False).indices

    def _key_and_weights(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.fp8:
            return self.wk(hidden), self.weights_proj(hidden)
        return self.wk_weights_proj(hidden).split((self.config.index_dim, self.config.index_heads), dim=-1)

    def _rotate(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        rotary, rest = x.split((self.config.rope, self.config.index_dim - self.config.rope), dim=-1)
        return torch.cat((apply_rope(rotary, cos_sin, interleaved=False), rest), dim=-1)

    def _logits(self, query: Tensor, weights: Tensor, index_cache: Tensor) -> Tensor:
        scale = self.config.index_heads**-0.5 * self.config.index_dim**-0.5
        scores = torch.bmm(query, index_cache.transpose(1, 2)).float().relu()
        return (scores * (weights.float() * scale).unsqueeze(-1)).sum(dim=1)


class SparseAttention(nn.Module):
    """An attention layer of one rank, for one new token of each of T sequences."""

    cos_sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        heads = config.heads // config.tp
        self.fused_qkv_a_proj = _linear(config, config.hidden, config.q_lora + config.kv_lora + config.rope)
        self.q_a_layernorm = RMSNorm(config.q_lora, eps=EPSILON, dtype=config.dtype)
        self.kv_a_layernorm = RMSNorm(config.kv_lora, eps=EPSILON, dtype=config.dtype)
        self.q_b_proj = _linear(config, config.q_lora, heads * (config.nope + config.rope))
        self.w_uk = _frozen(heads, config.nope, config.kv_lora, dtype=config.dtype)
        self.w_uv = _frozen(heads, config.kv_lora, config.v_dim, dtype=config.dtype)
        self.indexer = Indexer(config)
        self.o_proj = _linear(config, heads * config.v_dim, config.hidden)
        self.register_buffer("cos_sin", rope_table(config.context, config.rope), persistent=False)

    def forward(
        self, hidden: Tensor, positions: Tensor, kv_cache: Tensor, index_cache: Tensor, return_indices: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return ``[T, hidden]``, and if asked the attended slots ``[T, topk]`` int64, padded with -1.

        ``hidden`` is ``[T, hidden]`` after the input norm; ``positions`` int64 ``[T]``, below ``context``. Both caches
        hold one sequence a row and are updated in place at ``positions``: ``kv_cache`` ``[T, context, kv_lora + rope]``
        with normalized latents and rotated keys, ``index_cache`` ``[T, context, index_dim]``. All but ``positions``
        have ``config.dtype``.
        """
        config = self.config
        cos_sin = self.cos_sin[positions]
        q_a, kv_a, k_pe = self.fused_qkv_a_proj(hidden).split((config.q_lora, config.kv_lora, config.rope), dim=-1)
        q_c = self.q_a_layernorm(q_a)
        query = self._absorbed_query(q_c, cos_sin)
        k_pe = apply_rope(k_pe.unsqueeze(1), cos_sin, interleaved=True).squeeze(1)
        latent = torch.cat((self.kv_a_layernorm(kv_a), k_pe), dim=-1)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        kv_cache.index_put_((rows, positions), latent)
        slots = self.indexer(hidden, q_c, positions, cos_sin, index_cache)
        visible = slots <= positions.unsqueeze(1)
        attended = self._attend(query, kv_cache[rows.unsqueeze(1), slots], visible)
        # [heads, T, kv_lora] x [heads, kv_lora, v_dim], then the heads of a token side by side.
        out = self.o_proj(torch.bmm(attended.transpose(0, 1), self.w_uv).transpose(0, 1).flatten(1))
        return (out, slots.masked_fill(~visible, -1)) if return_indices else out

    def _absorbed_query(self, q_c: Tensor, cos_sin: Tensor) -> Tensor:
        config = self.config
        query = self.q_b_proj(q_c).unflatten(-1, (-1, config.nope + config.rope))
        nope, rotary = query.split((config.nope, config.rope), dim=-1)
        rotary = apply_rope(rotary, cos_sin, interleaved=True)
        absorbed = torch.bmm(nope.transpose(0, 1), self.w_uk).transpose(0, 1)
        return torch.cat((absorbed, rotary), dim=-1)

    def _attend(self, query: Tensor, selected: Tensor, visible: Tensor) -> Tensor:
        scale = (self.config.nope + self.config.rope) ** -0.5
        scores = torch.bmm(query, selected.transpose(1, 2)).float() * scale
        probabilities = scores.masked_fill(~visible.unsqueeze(1), -torch.inf).softmax(dim=-1)
        return torch.bmm(probabilities.to(query.dtype), selected[..., : self.config.kv_lora])


def _generator(device: torch.device, seed: int) -> torch.Generator | None:
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def build(config: Config, device: torch.device | str, seed: int = 0) -> SparseAttention:
    """Return a layer with random weights, N(0, 1 / fan_in) each, made on ``device``; on "meta" it has shapes only."""
    device = torch.device(device)
    generator = _generator(device, seed)
    with device:
        module = SparseAttention(config)
        for child in module.modules():
            if isinstance(child, Linear):
                fan_in = child.weight.shape[1]
                child.load(torch.randn(child.weight.shape, generator=generator, dtype=config.dtype) * fan_in**-0.5)
    # Both expand a latent before they are absorbed, so kv_lora is the fan-in of w_uk too.
    for weight in (module.w_uk, module.w_uv):
        weight.normal_(std=config.kv_lora**-0.5, generator=generator)
    return module.requires_grad_(False).eval()


def example_inputs(config: Config, device: torch.device | str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``(hidden, positions, kv_cache, index_cache)`` as the layer takes them, all random."""
    device = torch.device(device)
    options: dict[str, Any] = {"generator": _generator(device, seed), "device": device}
    batch = config.tokens
    hidden = torch.randn(batch, config.hidden, dtype=config.dtype, **options)
    positions = torch.randint(config.context, (batch,), **options)
    kv_cache = torch.randn(batch, config.context, config.kv_lora + config.rope, dtype=config.dtype, **options)
    index_cache = torch.randn(batch, config.context, config.index_dim, dtype=config.dtype, **options)
    return hidden, positions, kv_cache, index_cache


def layer() -> tuple[SparseAttention, tuple[Tensor, ...]]:
    """Return the full-size layer and its inputs on the meta device: 1 token, a context of 4096."""
    config = Config(tokens=1, context=4096)
    return build(config, "meta"), example_inputs(config, "meta")


def tiny() -> tuple[SparseAttention, tuple[Tensor, ...]]:
    """Return a tiny layer and its inputs on the CPU."""
    config = Config.tiny()
    return build(config, "cpu"), example_inputs(config, "cpu")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. What it leaves out is None, and becomes the default of the chosen size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fp8", action="store_true", help="fp8 weights and GEMMs; weights_proj stays bfloat16")
    add_arguments(parser)
    return parser.parse_args(argv)


def config_from(args: argparse.Namespace) -> Config:
    """Return the Config that the arguments describe."""
    changes = {name: value for name in ("tp", "tokens", "context", "fp8") if (value := getattr(args, name)) is not None}
    return Config.tiny(**changes) if args.tiny else Config(**changes)


def main(argv: Sequence[str] | None = None) -> int:
    """Plan the layer, show the plan, check the rewritten graph on the CPU, and on a GPU compare bits and times."""
    args = parse_args(argv)
    config = config_from(args)
    layer, small = (Layer(size, build, example_inputs) for size in (config, Config.tiny(fp8=config.fp8)))
    return plan_layer(f"V3.2 layer, {config.tokens} tokens, tp {config.tp}", layer, small, args)


def bench(tokens: int) -> tuple[nn.Module, Callable[[int], Sequence[Any]]]:
    """Return the full-size layer on the GPU and a maker of fresh inputs, for ``graphstreams bench``."""
    return Layer(Config(tokens=tokens), build, example_inputs).on_gpu()


if __name__ == "__main__":
    raise SystemExit(main())
