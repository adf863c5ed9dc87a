"""A DeepSeek V4 attention layer in plain PyTorch, at decode and prefill: its three kinds, with caches written in place.

Sizes and the order of the steps follow the public descriptions of DeepSeek V4's inference code. A CSA layer attends to a
sliding window and to selected entries of a cache that holds one pooled entry for every 4 tokens; an HCA layer to the window and
to all entries of a cache with one entry for every 128 tokens; a sliding layer to the window only. The down projections of query
and latent are one GEMM, and so are the two of each compressor, as in vLLM, whose pull request 41061 overlaps these GEMMs by
hand.
The layer is one rank's share under tensor parallelism, without the all-reduce at its end. The Hadamard transform and the fp4
quantisation of the indexer are left out, and RoPE is plain, because YaRN would change constants only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from deepseek_v32 import EPSILON, Linear, RMSNorm, apply_rope, rope_table
from plan_layer import Layer, add_arguments, plan_layer
from torch import Tensor, nn

Kind = Literal["csa", "hca", "sliding"]
RATIO = {"csa": 4, "hca": 128}  # tokens that one compressed entry stands for


@dataclass(frozen=True)
class Config:
    """The sizes of the layer. `heads` and `o_groups` count all ranks; each rank has a share, and the whole indexer."""

    kind: Kind = "csa"
    hidden: int = 4096
    q_lora: int = 1024
    head_dim: int = 512
    rope: int = 64
    heads: int = 64
    o_groups: int = 8
    o_lora: int = 1024
    index_heads: int = 64
    index_dim: int = 128
    topk: int = 512
    window: int = 128
    context: int = 16384
    tokens: int = 1
    tp: int = 1
    prefill: bool = False
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.kind not in ("csa", "hca", "sliding"):
            raise ValueError(f"kind must be csa, hca or sliding, got {self.kind!r}")
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if self.tp < 1 or self.heads % self.tp or self.o_groups % self.tp:
            raise ValueError(f"heads ({self.heads}) and o_groups ({self.o_groups}) must be multiples of tp ({self.tp})")
        if self.context % max(self.ratio, self.window):
            raise ValueError(f"context ({self.context}) must be a multiple of {max(self.ratio, self.window)}")
        if self.kind == "csa" and not 1 <= self.topk <= self.context // self.ratio:
            raise ValueError(f"topk must lie in 1..{self.context // self.ratio}, got {self.topk}")
        if self.prefill and (self.tokens > self.context or self.tokens % max(self.ratio, self.window)):
            raise ValueError(f"prefill needs a multiple of {max(self.ratio, self.window)} tokens, at most the context")

    @property
    def ratio(self) -> int:
        """Return the tokens that one compressed entry stands for; 1 without a compressor."""
        return RATIO.get(self.kind, 1)

    @property
    def sequences(self) -> int:
        """Return the number of sequences: one a token at decode, one at prefill."""
        return 1 if self.prefill else self.tokens

    @classmethod
    def flash(cls, **changes: Any) -> Config:
        """Return the sizes of V4-Flash; `changes` replace single fields."""
        return cls(**changes)

    @classmethod
    def pro(cls, **changes: Any) -> Config:
        """Return the sizes of V4-Pro; `changes` replace single fields."""
        sizes: dict[str, Any] = {"hidden": 7168, "q_lora": 1536, "heads": 128, "o_groups": 16, "topk": 1024}
        return cls(**{**sizes, **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> Config:
        """Return sizes small enough for a CPU; `changes` replace single fields."""
        sizes: dict[str, Any] = {"hidden": 64, "q_lora": 48, "head_dim": 32, "rope": 16, "heads": 4, "o_groups": 2}
        counts = {"o_lora": 16, "index_heads": 16, "index_dim": 32, "topk": 4, "window": 16, "context": 256, "tokens": 3}
        return cls(**{**sizes, **counts, **changes})


def _frozen(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


def rotate_last(x: Tensor, cos_sin: Tensor, rope: int, inverse: bool = False) -> Tensor:
    """Rotate the last `rope` elements of `x` `[T, heads, dim]` by `cos_sin` fp32 `[T, rope]`, or back if `inverse`."""
    plain, rotary = x.split((x.shape[-1] - rope, rope), dim=-1)
    if inverse:
        cos, sin = cos_sin.chunk(2, dim=-1)
        cos_sin = torch.cat((cos, -sin), dim=-1)
    return torch.cat((plain, apply_rope(rotary, cos_sin, interleaved=True)), dim=-1)


def complete_entries(positions: Tensor, entries: int, ratio: int) -> Tensor:
    """Return bool `[T, entries]`: which entries have all of their tokens at or before each of `positions` `[T]`."""
    return torch.arange(entries, device=positions.device) < (positions.unsqueeze(1) + 1) // ratio


class Compressor(nn.Module):
    """The module that pools the latents of `ratio` tokens, weighted by a learned score, into one cache entry.

    With a ratio of 4 an entry also reads the 4 tokens before: half of a latent's width serves the entry of its own tokens, the
    other half the next entry. The state is a ring of latents and scores, long enough for the tokens that an entry reads.
    """

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.config, self.dim, self.overlap = config, dim, config.ratio == 4
        self.width = dim * (1 + self.overlap)
        self.wkv_gate = Linear(config.hidden, 2 * self.width, config.dtype)
        self.position_bias = _frozen(config.ratio, self.width, dtype=torch.float32)
        self.norm = RMSNorm(dim, eps=EPSILON, dtype=config.dtype)

    def project(self, hidden: Tensor) -> Tensor:
        """Return latents and scores `[T, 2 * width]` fp32."""
        return self.wkv_gate(hidden).float()

    def step(self, projected: Tensor, positions: Tensor, table: Tensor, cache: Tensor, state: Tensor) -> None:
        """Put one token of each sequence into `state`, and into `cache` the entry that it belongs to.

        `projected` is fp32 `[T, 2 * width]`, `state` fp32 `[T, 2, rows, width]`: latents, then scores, of the last tokens.
        `cache` is `[T, entries, dim]`.
        """
        token = self.token(projected, positions)
        self.write(token, self.entry(token, positions, table, state), positions, cache, state)

    def token(self, projected: Tensor, positions: Tensor) -> Tensor:
        """Return what the state keeps of one token of each sequence: fp32 `[T, 2, width]`."""
        latent, score = projected.split(self.width, dim=-1)
        return torch.stack((latent, score + self.position_bias[positions % self.config.ratio]), dim=1)

    def entry(self, token: Tensor, positions: Tensor, table: Tensor, state: Tensor) -> Tensor:
        """Return the entry `[T, dim]` that each `token` belongs to, pooled from it and the tokens in `state`."""
        ratio, number = self.config.ratio, positions // self.config.ratio
        row = torch.arange(state.shape[2], device=state.device).unsqueeze(-1)
        latents, scores = torch.where(row == (positions % state.shape[2]).view(-1, 1, 1, 1), token.unsqueeze(2), state).unbind(1)
        if self.overlap:
            # A sum does not care in which order it meets the entry's own tokens and those before.
            own = row // ratio == (number % 2).view(-1, 1, 1)
            latents, scores = (torch.where(own, rows[..., self.dim :], rows[..., : self.dim]) for rows in (latents, scores))
        return self._finish((latents * scores.softmax(dim=1)).sum(dim=1), number * ratio, table)

    def write(self, token: Tensor, entry: Tensor, positions: Tensor, cache: Tensor, state: Tensor) -> None:
        """Write token and entry into their places.

        An entry is written at each of its tokens, because a graph has no branches; it is right, and read, from its last on.
        """
        rows = torch.arange(token.shape[0], device=token.device)
        state[rows, :, positions % state.shape[2]] = token
        cache[rows, positions // self.config.ratio] = entry

    def fill(self, projected: Tensor, table: Tensor, cache: Tensor, state: Tensor) -> Tensor:
        """Put the tokens of one sequence, from its start, into `cache` and `state`. Return the entries `[N / ratio, dim]`."""
        ratio = self.config.ratio
        latents, scores = projected.unflatten(0, (-1, ratio)).split(self.width, dim=-1)
        scores = scores + self.position_bias
        if self.overlap:
            nothing = (latents.new_zeros(1, ratio, self.dim), scores.new_full((1, ratio, self.dim), -torch.inf))
            last = (latents.shape[0] - 1) % 2 * ratio
            state[0, 0, last : last + ratio], state[0, 1, last : last + ratio] = latents[-1], scores[-1]
            latents, scores = (
                torch.cat((torch.cat((none, rows[:-1, :, : self.dim])), rows[:, :, self.dim :]), dim=1)
                for none, rows in zip(nothing, (latents, scores), strict=True)
            )
        starts = torch.arange(0, projected.shape[0], ratio, device=projected.device)
        entries = self._finish((latents * scores.softmax(dim=1)).sum(dim=1), starts, table)
        cache[0, : entries.shape[0]] = entries
        return entries

    def _finish(self, pooled: Tensor, starts: Tensor, table: Tensor) -> Tensor:
        entries = self.norm(pooled.to(self.config.dtype)).unsqueeze(1)
        return rotate_last(entries, table[starts], self.config.rope).squeeze(1)


class Indexer(nn.Module):
    """The module that selects the `topk` compressed entries that each token attends to."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.wq_b = Linear(config.q_lora, config.index_heads * config.index_dim, config.dtype)
        self.weights_proj = Linear(config.hidden, config.index_heads, config.dtype)
        self.compressor = Compressor(config, config.index_dim)

    def query(self, q_c: Tensor, cos_sin: Tensor) -> Tensor:
        """Return the rotated query `[T, index_heads, index_dim]`."""
        query = self.wq_b(q_c).unflatten(-1, (self.config.index_heads, self.config.index_dim))
        return rotate_last(query, cos_sin, self.config.rope)

    def select(self, query: Tensor, weights: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
        """Return entries `[T, topk]` int64, in no particular order, for `keys` `[T, entries, dim]` or `[1, entries, dim]`."""
        scale = self.config.index_heads**-0.5 * self.config.index_dim**-0.5
        scores = torch.matmul(query, keys.transpose(1, 2)).float().relu()
        logits = (scores * (weights.float() * scale).unsqueeze(-1)).sum(dim=1)
        complete = complete_entries(positions, keys.shape[1], self.config.ratio)
        return logits.masked_fill(~complete, -torch.inf).topk(self.config.topk, dim=-1, sorted=False).indices


class Attention(nn.Module):
    """An attention layer of one rank."""

    table: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.heads, self.groups = config.heads // config.tp, config.o_groups // config.tp
        self.wqa_wkv = Linear(config.hidden, config.q_lora + config.head_dim, config.dtype)
        self.q_norm = RMSNorm(config.q_lora, eps=EPSILON, dtype=config.dtype)
        self.kv_norm = RMSNorm(config.head_dim, eps=EPSILON, dtype=config.dtype)
        self.wq_b = Linear(config.q_lora, self.heads * config.head_dim, config.dtype)
        self.compressor = Compressor(config, config.head_dim) if config.kind != "sliding" else None
        self.indexer = Indexer(config) if config.kind == "csa" else None
        self.sink = _frozen(self.heads, dtype=torch.float32)
        self.wo_a = _frozen(self.groups, self.heads // self.groups * config.head_dim, config.o_lora, dtype=config.dtype)
        self.wo_b = Linear(self.groups * config.o_lora, config.hidden, config.dtype)
        self.register_buffer("table", rope_table(config.context, config.rope), persistent=False)

    def forward(self, hidden: Tensor, positions: Tensor, window: Tensor, *caches: Tensor) -> Tensor:
        """Return `[T, hidden]` for one new token of each of T sequences, or for the first T tokens of one at prefill.

        `hidden` is `[T, hidden]` after the input norm, `positions` int64 `[T]`. `window` is `[S, window, head_dim]`, a ring of
        the last tokens of S sequences. `caches` are `(cache, state)` of the compressor and, in a CSA layer, of the indexer's:
        `[S, context / ratio, dim]` and fp32 `[S, 2, rows, width]`. All of them are written in place.
        """
        projected = [compressor.project(hidden) for compressor in self.compressors()]
        weights = self.indexer.weights_proj(hidden) if self.indexer else None
        q_c, latent = self.down(hidden, positions)
        query = self.query(q_c, positions)
        if self.config.prefill:
            return self._prefill(query, q_c, latent, projected, weights, positions, window, caches)
        self.insert(latent, positions, window)
        for compressor, own, cache, state in zip(self.compressors(), projected, caches[::2], caches[1::2], strict=True):
            compressor.step(own, positions, self.table, cache, state)
        selected = self.selected(q_c, weights, positions, caches[2]) if self.indexer else None
        return self.attend(query, positions, window, caches[0] if caches else None, selected)

    def compressors(self) -> list[Compressor]:
        """Return the layer's compressors: its own and the indexer's."""
        return [module.compressor for module in (self, self.indexer) if module is not None and module.compressor is not None]

    def down(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized query part of the down projection, and the normalized, rotated latent `[T, head_dim]`."""
        q_a, kv = self.wqa_wkv(hidden).split((self.config.q_lora, self.config.head_dim), dim=-1)
        latent = rotate_last(self.kv_norm(kv).unsqueeze(1), self.table[positions], self.config.rope).squeeze(1)
        return self.q_norm(q_a), latent

    def query(self, q_c: Tensor, positions: Tensor) -> Tensor:
        """Return the query of every head, normalized without a weight and rotated."""
        query = self.wq_b(q_c).unflatten(-1, (-1, self.config.head_dim))
        query = nn.functional.rms_norm(query.float(), (self.config.head_dim,), eps=EPSILON).to(query.dtype)
        return rotate_last(query, self.table[positions], self.config.rope)

    def insert(self, latent: Tensor, positions: Tensor, window: Tensor) -> None:
        """Write one token's latent of each sequence into the ring."""
        window[torch.arange(latent.shape[0], device=latent.device), positions % self.config.window] = latent

    def selected(self, q_c: Tensor, weights: Tensor | None, positions: Tensor, keys: Tensor) -> Tensor:
        """Return the entries that the indexer selects."""
        assert self.indexer is not None and weights is not None
        return self.indexer.select(self.indexer.query(q_c, self.table[positions]), weights, keys, positions)

    def attend(self, query: Tensor, positions: Tensor, window: Tensor, cache: Tensor | None, selected: Tensor | None) -> Tensor:
        """Attend to the window and to the entries of the cache, selected or all, and project back to `[T, hidden]`."""
        ring = torch.arange(window.shape[1], device=query.device)
        keys, visible = window, ring <= positions.unsqueeze(1)
        if cache is not None:
            if selected is None:
                chosen, complete = cache, complete_entries(positions, cache.shape[1], self.config.ratio)
            else:
                chosen = cache[torch.arange(query.shape[0], device=query.device).unsqueeze(1), selected]
                complete = selected < (positions.unsqueeze(1) + 1) // self.config.ratio
            keys = torch.cat((keys, chosen), dim=1)
            visible = torch.cat((visible, complete), dim=1)
        scores = torch.bmm(query, keys.transpose(1, 2)).float() * self.config.head_dim**-0.5
        scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
        return self._project(torch.bmm(self._probabilities(scores).to(query.dtype), keys), positions)

    def _probabilities(self, scores: Tensor) -> Tensor:
        """Return the softmax of `scores` `[..., heads, keys]` with the sink of each head in the denominator."""
        sink = self.sink.unsqueeze(-1).expand(*scores.shape[:-1], 1)
        return torch.cat((scores, sink), dim=-1).softmax(dim=-1)[..., :-1]

    def _project(self, attended: Tensor, positions: Tensor) -> Tensor:
        plain = rotate_last(attended, self.table[positions], self.config.rope, inverse=True)
        grouped = plain.flatten(1).unflatten(1, (self.groups, -1)).transpose(0, 1)
        return self.wo_b(torch.bmm(grouped, self.wo_a).transpose(0, 1).flatten(1))

    def _prefill(
        self, query: Tensor, q_c: Tensor, latent: Tensor, projected: list[Tensor], weights: Tensor | None, positions: Tensor,
        window: Tensor, caches: Sequence[Tensor],
    ) -> Tensor:  # fmt: skip
        """Fill the caches of one sequence, and attend in blocks of the window's size and to all entries under a mask."""
        size, tokens = self.config.window, query.shape[0]
        window[0] = latent[-size:]
        blocks = latent.unflatten(0, (-1, size))
        keys = torch.cat((torch.cat((torch.zeros_like(blocks[:1]), blocks[:-1])), blocks), dim=1)
        scores = torch.einsum("bthd,bkd->bthk", query.unflatten(0, (-1, size)), keys).float().flatten(0, 1)
        behind = torch.arange(2 * size, device=query.device) - size - torch.arange(size, device=query.device).unsqueeze(1)
        seen = (behind <= 0) & (behind > -size)
        first = torch.arange(tokens, device=query.device).unsqueeze(1) < size
        masks = seen.repeat(tokens // size, 1) & ~(first & (torch.arange(2 * size, device=query.device) < size))
        entries: list[Tensor] = []
        for compressor, own, cache, state in zip(self.compressors(), projected, caches[::2], caches[1::2], strict=True):
            entries.append(compressor.fill(own, self.table, cache, state))
        if entries:
            count = entries[0].shape[0]
            complete = complete_entries(positions, count, self.config.ratio)
            if self.indexer is not None and count > self.config.topk:
                picked = self.selected(q_c, weights, positions, entries[1].unsqueeze(0))
                complete = complete & torch.zeros_like(complete).scatter(1, picked, True)
            scores = torch.cat((scores, torch.matmul(query, entries[0].t()).float()), dim=-1)
            masks = torch.cat((masks, complete), dim=1)
        scores = (scores * self.config.head_dim**-0.5).masked_fill(~masks.unsqueeze(1), -torch.inf)
        probabilities = self._probabilities(scores).to(query.dtype)
        local = torch.einsum("bthk,bkd->bthd", probabilities[..., : 2 * size].unflatten(0, (-1, size)), keys).flatten(0, 1)
        if entries:
            local = local + torch.matmul(probabilities[..., 2 * size :], entries[0])
        return self._project(local, positions)


def _generator(device: torch.device, seed: int) -> torch.Generator | None:
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def build(config: Config, device: torch.device | str, seed: int = 0) -> Attention:
    """Return a layer with random weights, N(0, 1 / fan_in) each, made on `device`; on "meta" it has shapes only."""
    device = torch.device(device)
    generator = _generator(device, seed)
    with device:
        module = Attention(config)
        for name, weight in module.named_parameters():
            if not name.endswith("norm.weight"):
                fan_in = weight.shape[1] if weight.dim() > 1 else 1
                weight.normal_(std=fan_in**-0.5, generator=generator)
    return module.requires_grad_(False).eval()


def example_inputs(config: Config, device: torch.device | str, seed: int = 0) -> tuple[Tensor, ...]:
    """Return `(hidden, positions, window, *caches)` as the layer takes them: random, but positions in order at prefill."""
    device = torch.device(device)
    options: dict[str, Any] = {"generator": _generator(device, seed), "device": device}
    hidden = torch.randn(config.tokens, config.hidden, dtype=config.dtype, **options)
    positions = torch.arange(config.tokens, device=device)
    if not config.prefill:
        positions = torch.randint(config.context, (config.tokens,), **options)
    found = [hidden, positions, torch.randn(config.sequences, config.window, config.head_dim, dtype=config.dtype, **options)]
    for dim in {"csa": (config.head_dim, config.index_dim), "hca": (config.head_dim,)}.get(config.kind, ()):
        factor = 2 if config.ratio == 4 else 1
        entries, rows = config.context // config.ratio, config.ratio * factor
        found.append(torch.randn(config.sequences, entries, dim, dtype=config.dtype, **options))
        found.append(torch.randn(config.sequences, 2, rows, dim * factor, **options))
    return tuple(found)


def fresh_caches(config: Config, device: torch.device | str) -> tuple[Tensor, ...]:
    """Return `(window, *caches)` as sequences find them at their first token: a score of minus infinity is that of no token."""
    window, *caches = example_inputs(config, device)[2:]
    for state in caches[1::2]:
        state.zero_()[:, 1] = -torch.inf
    return window.zero_(), *(cache if index % 2 else cache.zero_() for index, cache in enumerate(caches))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. What it leaves out is None, and becomes the default of the chosen size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("csa", "hca", "sliding"), help="which of the model's layers (default csa)")
    parser.add_argument("--model", choices=("flash", "pro"), default="flash", help="whose sizes (default flash)")
    parser.add_argument("--prefill", action="store_true", help="the first tokens of one sequence instead of decode")
    add_arguments(parser)
    return parser.parse_args(argv)


def config_from(args: argparse.Namespace) -> Config:
    """Return the Config that the arguments describe. A prefill without a number of tokens has two windows of them."""
    given = {name: getattr(args, name) for name in ("kind", "tp", "tokens", "context")}
    changes = {name: value for name, value in given.items() if value is not None}
    sizes = Config.tiny if args.tiny else getattr(Config, args.model)
    config: Config = sizes(**changes)
    if args.prefill:
        changes.setdefault("tokens", 2 * max(config.ratio, config.window))
    return sizes(**changes, prefill=args.prefill) if args.prefill else config


def main(argv: Sequence[str] | None = None) -> int:
    """Plan the layer, show the plan, check the rewritten graph on the CPU, and on a GPU compare bits and times."""
    args = parse_args(argv)
    config = config_from(args)
    small = Config.tiny(kind=config.kind, prefill=config.prefill, **({"tokens": 128} if config.prefill else {}))
    layer, small_layer = (Layer(size, build, example_inputs) for size in (config, small))
    step = "prefill" if config.prefill else "decode"
    title = f"V4-{args.model.capitalize()} {config.kind} layer, {step}, {config.tokens} tokens, tp {config.tp}"
    return plan_layer(title, layer, small_layer, args)


def bench(tokens: int) -> tuple[nn.Module, Callable[[int], Sequence[Any]]]:
    """Return V4-Flash's CSA layer for TP 8 on the GPU and a maker of fresh inputs, for `graphstreams bench`."""
    return Layer(Config.flash(tokens=tokens, tp=8), build, example_inputs).on_gpu()


def flash() -> tuple[Attention, tuple[Tensor, ...]]:
    """Return V4-Flash's CSA layer for TP 8 and its inputs on the meta device, for `graphstreams explain`."""
    config = Config.flash(tp=8)
    return build(config, "meta"), example_inputs(config, "meta")


if __name__ == "__main__":
    raise SystemExit(main())
