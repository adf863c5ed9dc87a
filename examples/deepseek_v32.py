"""A DeepSeek V3.2 attention layer at decode, in plain PyTorch: absorbed latent attention with its sparse indexer.

Sizes and the order of the steps follow the DeepSeek V3.2-Exp inference code. The projections are fused as in
vLLM, whose pull requests 39308 and 39943 overlap the same kernels by hand. The layer is one rank's share under tensor
parallelism, without the all-reduce after ``o_proj``; RoPE is plain, because YaRN would change constants only.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from plan_layer import Layer, add_arguments, plan_layer
from torch import Tensor, nn
from torch.nn.functional import ScalingType, SwizzleType, scaled_mm

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max
EPSILON = 1e-6
BLOCK = 128  # columns of an activation, and rows and columns of a weight, that share a scale
ROWS = 4  # a multiple of which has an activation with scales of blocks


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
    fp8_scales: Literal["block", "token"] = "block"
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if self.tp < 1 or self.heads % self.tp:
            raise ValueError(f"heads ({self.heads}) must be a multiple of tp ({self.tp})")
        if not 1 <= self.topk <= self.context:
            raise ValueError(f"topk must lie in 1..context ({self.context}), got {self.topk}")
        if self.fp8_scales not in ("block", "token"):
            raise ValueError(f"fp8_scales must be block or token, got {self.fp8_scales!r}")
        # On CUDA, torch._scaled_mm with a scale per row returns bfloat16 only.
        if self.fp8 and self.dtype != torch.bfloat16:
            raise ValueError(f"fp8 needs dtype bfloat16, got {self.dtype}")

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """Return sizes small enough for a CPU; ``changes`` replace single fields.

        With fp8 there is a scale per token, because torch multiplies no scaled blocks on a CPU.
        """
        widths = {"hidden": 64, "q_lora": 48, "kv_lora": 32, "nope": 16, "rope": 16, "v_dim": 16, "index_dim": 32}
        counts = {"heads": 4, "index_heads": 16, "topk": 8, "context": 32, "tokens": 3}
        return cls(**{**widths, **counts, "fp8_scales": "token", **changes})


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


class Quantized(NamedTuple):
    """An activation in float8_e4m3fn ``[rows, in]`` with the fp32 scales that undo it; the first ``tokens`` rows count."""

    values: Tensor
    scale: Tensor
    tokens: int


Operand = Tensor | Quantized  # what a product of the layer takes


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

    @staticmethod
    def operand(x: Tensor) -> Quantized:
        """Quantize an activation, once for all products that take it."""
        # A scale per token, not per tensor, keeps a sequence's result independent of its neighbours in the batch.
        return Quantized(*quantize(x, -1), x.shape[0])

    def forward(self, x: Operand) -> Tensor:
        values, scale, _ = x if isinstance(x, Quantized) else self.operand(x)
        weight, weight_scale = self.weight.t(), self.weight_scale
        return torch._scaled_mm(values, weight, scale_a=scale, scale_b=weight_scale, out_dtype=torch.bfloat16)


class BlockFloat8Linear(Linear):
    """An fp8 product ``[T, in] -> [T, out]`` bfloat16 with the scales of DeepSeek's checkpoints.

    A weight has a scale for each block of 128 x 128, an activation for each token and 128 columns. On CUDA torch multiplies
    these on Hopper only. On a CPU, where it can't, both operands are expanded.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        if in_features % BLOCK or out_features % 16:
            raise ValueError(f"blocks need {BLOCK}n -> 16n features, got {in_features} -> {out_features}")
        super().__init__(in_features, out_features, FLOAT8)
        # cuBLAS takes rows of a multiple of four scales, of which it reads one for each block.
        self.blocks = in_features // BLOCK
        self.weight_scale = _frozen(-(-out_features // BLOCK), -(-self.blocks // 4) * 4, dtype=torch.float32)

    def load(self, weight: Tensor) -> None:
        """Quantize and store a weight ``[out, in]`` of any float dtype."""
        out_features = weight.shape[0]
        padded = nn.functional.pad(weight, (0, 0, 0, -out_features % BLOCK))
        quantized, scale = quantize(padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)), (1, 3))
        self.weight.copy_(quantized.flatten(2).flatten(0, 1)[:out_features])
        self.weight_scale.zero_()[:, : self.blocks] = scale.squeeze(3).squeeze(1)

    @staticmethod
    def operand(x: Tensor) -> Quantized:
        """Quantize an activation, once for all products that take it. The scale is ``[rows, in / 128]``, a column at a time.

        Rows of zeros follow up to a multiple of four, because cuBLAS takes no other columns of scales.
        """
        padded = nn.functional.pad(x, (0, 0, 0, -x.shape[0] % ROWS))
        quantized, scale = quantize(padded.unflatten(1, (-1, BLOCK)).transpose(0, 1), -1)
        return Quantized(quantized.transpose(0, 1).flatten(1), scale.squeeze(-1).t(), x.shape[0])

    def forward(self, x: Operand) -> Tensor:
        values, scale, tokens = x if isinstance(x, Quantized) else self.operand(x)
        if values.device.type == "cpu":
            wide = values.float().unflatten(1, (-1, BLOCK)) * scale.unsqueeze(-1)
            return nn.functional.linear(wide.flatten(1), self.expanded()).to(torch.bfloat16)[:tokens]
        recipes, plain = (ScalingType.BlockWise1x128, ScalingType.BlockWise128x128), SwizzleType.NO_SWIZZLE
        return scaled_mm(values, self.weight.t(), scale, recipes[0], self.weight_scale.t(), recipes[1], plain, plain)[:tokens]

    def expanded(self) -> Tensor:
        """Return the weight in fp32."""
        scale = self.weight_scale[:, : self.blocks].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        return self.weight.float() * scale[: self.weight.shape[0]]


def linear(config: Config, in_features: int, out_features: int) -> Linear:
    """Return a product in the config's dtype, or in fp8 with its kind of scales."""
    if not config.fp8:
        return Linear(in_features, out_features, config.dtype)
    return (BlockFloat8Linear if config.fp8_scales == "block" else Float8Linear)(in_features, out_features)


def operand(config: Config, x: Tensor) -> Operand:
    """Return what the layer's products take of an activation: with fp8 it is quantized here, once for all of them."""
    if not config.fp8:
        return x
    return (BlockFloat8Linear if config.fp8_scales == "block" else Float8Linear).operand(x)


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
            self.wk = linear(config, config.hidden, config.index_dim)
            self.weights_proj = Linear(config.hidden, config.index_heads, config.dtype)
        else:
            self.wk_weights_proj = linear(config, config.hidden, config.index_dim + config.index_heads)
        self.k_norm = nn.LayerNorm(config.index_dim, eps=EPSILON, dtype=torch.float32)
        self.wq_b = linear(config, config.q_lora, config.index_heads * config.index_dim)

    def forward(
        self, hidden: Tensor, shared: Operand, q_c: Operand, positions: Tensor, cos_sin: Tensor, index_cache: Tensor
    ) -> Tensor:
        """Write this step's key into ``index_cache`` and return slots ``[T, topk]`` int64, in no particular order.

        ``hidden`` is ``[T, hidden]``, ``shared`` the same as an operand, ``q_c`` ``[T, q_lora]``, ``cos_sin`` fp32
        ``[T, rope]``. A token at a position below ``topk - 1`` has too few slots to select from: the rest of its row lies
        beyond its position.
        """
        key, weights = self._key_and_weights(hidden, shared)
        key = self._rotate(self.k_norm(key.float()).to(hidden.dtype).unsqueeze(1), cos_sin)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        index_cache.index_put_((rows, positions), key.squeeze(1))
        query = self._rotate(self.wq_b(q_c).unflatten(-1, (self.config.index_heads, self.config.index_dim)), cos_sin)
        logits = self._logits(query, weights, index_cache)
        future = torch.arange(index_cache.shape[1], device=hidden.device) > positions.unsqueeze(1)
        # Attention does not depend on the order of its slots, and sorting them takes an H200 as long as selecting them.
        return logits.masked_fill(future, -torch.inf).topk(self.config.topk, dim=-1, sorted=False).indices

    def _key_and_weights(self, hidden: Tensor, shared: Operand) -> tuple[Tensor, Tensor]:
        if self.config.fp8:
            return self.wk(shared), self.weights_proj(hidden)
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
        self.fused_qkv_a_proj = linear(config, config.hidden, config.q_lora + config.kv_lora + config.rope)
        self.q_a_layernorm = RMSNorm(config.q_lora, eps=EPSILON, dtype=config.dtype)
        self.kv_a_layernorm = RMSNorm(config.kv_lora, eps=EPSILON, dtype=config.dtype)
        self.q_b_proj = linear(config, config.q_lora, heads * (config.nope + config.rope))
        self.w_uk = _frozen(heads, config.nope, config.kv_lora, dtype=config.dtype)
        self.w_uv = _frozen(heads, config.kv_lora, config.v_dim, dtype=config.dtype)
        self.indexer = Indexer(config)
        self.o_proj = linear(config, heads * config.v_dim, config.hidden)
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
        shared = operand(config, hidden)
        q_a, kv_a, k_pe = self.fused_qkv_a_proj(shared).split((config.q_lora, config.kv_lora, config.rope), dim=-1)
        q_c = operand(config, self.q_a_layernorm(q_a))
        query = self._absorbed_query(q_c, cos_sin)
        k_pe = apply_rope(k_pe.unsqueeze(1), cos_sin, interleaved=True).squeeze(1)
        latent = torch.cat((self.kv_a_layernorm(kv_a), k_pe), dim=-1)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        kv_cache.index_put_((rows, positions), latent)
        slots = self.indexer(hidden, shared, q_c, positions, cos_sin, index_cache)
        visible = slots <= positions.unsqueeze(1)
        attended = self._attend(query, kv_cache[rows.unsqueeze(1), slots], visible)
        # [heads, T, kv_lora] x [heads, kv_lora, v_dim], then the heads of a token side by side.
        out = self.o_proj(torch.bmm(attended.transpose(0, 1), self.w_uv).transpose(0, 1).flatten(1))
        return (out, slots.masked_fill(~visible, -1)) if return_indices else out

    def _absorbed_query(self, q_c: Operand, cos_sin: Tensor) -> Tensor:
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


def generator_on(device: torch.device, seed: int) -> torch.Generator | None:
    """Return a seeded generator of a device; None for "meta", which has none."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def build(config: Config, device: torch.device | str, seed: int = 0) -> SparseAttention:
    """Return a layer with random weights, N(0, 1 / fan_in) each, made on ``device``; on "meta" it has shapes only."""
    device = torch.device(device)
    generator = generator_on(device, seed)
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
    options: dict[str, Any] = {"generator": generator_on(device, seed), "device": device}
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
    parser.add_argument("--fp8-scales", choices=("block", "token"), help="how wide a scale reaches (default block)")
    add_arguments(parser)
    return parser.parse_args(argv)


def config_from(args: argparse.Namespace) -> Config:
    """Return the Config that the arguments describe."""
    names = ("tp", "tokens", "context", "fp8", "fp8_scales")
    changes = {name: value for name in names if (value := getattr(args, name)) is not None}
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
