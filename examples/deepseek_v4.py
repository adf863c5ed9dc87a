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
from deepseek_v32 import EPSILON, Linear, RMSNorm, generator_on, rope_table
from plan_layer import Layer, add_arguments, plan_layer, side_by_side
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
    """Rotate the last `rope` elements of `x` `[T, heads, dim]` by `cos_sin` fp32 `[T, rope]`, or back if `inverse`.

    Pairs are neighbours. The elements before them are rotated by nothing, so that all of `x` is one kernel without a
    concatenation, as in engines. They are not padding: torch 2.15 then masks the load of a single position with a float, and
    its kernel does not compile.
    """
    element = torch.arange(x.shape[-1], device=x.device)
    rotated, pair = element >= x.shape[-1] - rope, (element - (x.shape[-1] - rope)).clamp(min=0) // 2
    cos = torch.where(rotated, cos_sin[:, pair], 1.0).unsqueeze(1)
    sin = torch.where(rotated, cos_sin[:, rope // 2 + pair], 0.0).unsqueeze(1)
    even = element % 2 == int(inverse)
    other = x.float().unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x.float() * cos + other * torch.where(even, -sin, sin)).to(x.dtype)


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

    def pooled(self, kv_score: Tensor, positions: Tensor, table: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `write` takes: tokens as the state keeps them, and entries, from latents and scores `[T, 2 * width]`.

        At decode these are a token fp32 `[T, 2, width]` and the entry `[T, dim]` that it belongs to, of each sequence. At
        prefill they are the last tokens `[2, ratio, width]` and all entries `[T / ratio, dim]` of one sequence.
        """
        latents, scores = kv_score.float().split(self.width, dim=-1)
        if self.config.prefill:
            return self._all(latents, scores, table)
        token = torch.stack((latents, scores + self.position_bias[positions % self.config.ratio]), dim=1)
        return token, self._entry(token, positions, table, state)

    def write(self, tokens: Tensor, entries: Tensor, positions: Tensor, cache: Tensor, state: Tensor) -> None:
        """Write what `pooled` returned: `cache` is `[S, entries, dim]`, `state` fp32 `[S, 2, rows, width]`.

        At decode an entry is written at each of its tokens, because a graph has no branches; it is right, and read, from its
        last token on.
        """
        ratio, rows = self.config.ratio, torch.arange(tokens.shape[0], device=tokens.device)
        if self.config.prefill:
            first = (entries.shape[0] - 1) * ratio % state.shape[2]
            state[0, :, first : first + ratio] = tokens
            cache[0, : entries.shape[0]] = entries
        else:
            state[rows, :, positions % state.shape[2]] = tokens
            cache[rows, positions // ratio] = entries

    def _entry(self, token: Tensor, positions: Tensor, table: Tensor, state: Tensor) -> Tensor:
        """Pool the entry of each `token` from it and the tokens in `state`."""
        ratio, number = self.config.ratio, positions // self.config.ratio
        row = torch.arange(state.shape[2], device=state.device).unsqueeze(-1)
        latents, scores = torch.where(row == (positions % state.shape[2]).view(-1, 1, 1, 1), token.unsqueeze(2), state).unbind(
            1
        )
        if self.overlap:
            # A sum does not care in which order it meets the entry's own tokens and those before.
            own = row // ratio == (number % 2).view(-1, 1, 1)
            latents, scores = (torch.where(own, rows[..., self.dim :], rows[..., : self.dim]) for rows in (latents, scores))
        return self._finish((latents * scores.softmax(dim=1)).sum(dim=1), number * ratio, table)

    def _all(self, latents: Tensor, scores: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        ratio = self.config.ratio
        starts = torch.arange(0, latents.shape[0], ratio, device=latents.device)
        latents, scores = (rows.unflatten(0, (-1, ratio)) for rows in (latents, scores))
        scores = scores + self.position_bias
        last = torch.stack((latents[-1], scores[-1]))
        if self.overlap:
            nothing = (latents.new_zeros(1, ratio, self.dim), scores.new_full((1, ratio, self.dim), -torch.inf))
            latents, scores = (
                torch.cat((torch.cat((none, rows[:-1, :, : self.dim])), rows[:, :, self.dim :]), dim=1)
                for none, rows in zip(nothing, (latents, scores), strict=True)
            )
        return last, self._finish((latents * scores.softmax(dim=1)).sum(dim=1), starts, table)

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
        kv_scores = [compressor.wkv_gate(hidden) for compressor in self.compressors()]
        weights = self.indexer.weights_proj(hidden) if self.indexer else None
        qkv = self.wqa_wkv(hidden)
        q_c = self.query_latent(qkv)
        query, latent = self.query(q_c, positions), self.latent(qkv, positions)
        pooled = [self.pooled(index, kv_score, positions, caches) for index, kv_score in enumerate(kv_scores)]
        for index, made in enumerate(pooled):
            self.write(index, made, positions, caches)
        selected = self.selected(q_c, weights, positions, pooled[1][1], caches[2]) if self.indexer else None
        self.insert(latent, positions, window)
        return self.finish(query, latent, positions, window, pooled[0][1] if pooled else None, selected, caches)

    def compressors(self) -> list[Compressor]:
        """Return the layer's compressors: its own and the indexer's."""
        return [module.compressor for module in (self, self.indexer) if module is not None and module.compressor is not None]

    def pooled(self, index: int, kv_score: Tensor, positions: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what compressor `index` makes of its GEMM's output. Nothing is written."""
        return self.compressors()[index].pooled(kv_score, positions, self.table, caches[2 * index + 1])

    def write(self, index: int, made: tuple[Tensor, Tensor], positions: Tensor, caches: Sequence[Tensor]) -> None:
        """Write what compressor `index` made into its cache and state."""
        self.compressors()[index].write(*made, positions, *caches[2 * index : 2 * index + 2])

    def query_latent(self, qkv: Tensor) -> Tensor:
        """Return the normalized query part of the down projection."""
        return self.q_norm(qkv[:, : self.config.q_lora])

    def latent(self, qkv: Tensor, positions: Tensor) -> Tensor:
        """Return the normalized, rotated latent `[T, head_dim]`."""
        kv = self.kv_norm(qkv[:, self.config.q_lora :])
        return rotate_last(kv.unsqueeze(1), self.table[positions], self.config.rope).squeeze(1)

    def query(self, q_c: Tensor, positions: Tensor) -> Tensor:
        """Return the query of every head, normalized without a weight and rotated."""
        query = self.wq_b(q_c).unflatten(-1, (-1, self.config.head_dim))
        query = nn.functional.rms_norm(query.float(), (self.config.head_dim,), eps=EPSILON).to(query.dtype)
        return rotate_last(query, self.table[positions], self.config.rope)

    def insert(self, latent: Tensor, positions: Tensor, window: Tensor) -> None:
        """Write the last latents into the ring: one of each sequence at decode, a window of them at prefill."""
        if self.config.prefill:
            window[0] = latent[-self.config.window :]
        else:
            window[torch.arange(latent.shape[0], device=latent.device), positions % self.config.window] = latent

    def selected(self, q_c: Tensor, weights: Tensor | None, positions: Tensor, entries: Tensor, cache: Tensor) -> Tensor | None:
        """Return the entries that the indexer selects; None if that is all of them, as at the prefill of few tokens.

        `entries` are those that its compressor made, and `cache` holds them: at prefill they are all that there is.
        """
        assert self.indexer is not None and weights is not None
        if self.config.prefill and entries.shape[0] <= self.config.topk:
            return None
        keys = entries.unsqueeze(0) if self.config.prefill else cache
        return self.indexer.select(self.indexer.query(q_c, self.table[positions]), weights, keys, positions)

    def finish(
        self, query: Tensor, latent: Tensor, positions: Tensor, window: Tensor, entries: Tensor | None, selected: Tensor | None,
        caches: Sequence[Tensor],
    ) -> Tensor:  # fmt: skip
        """Return the layer's output. `entries` are what the layer's own compressor made."""
        if self.config.prefill:
            return self.attend_prefill(query, latent, positions, entries, selected)
        return self.attend(query, positions, window, caches[0] if caches else None, selected)

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

    def attend_prefill(
        self, query: Tensor, latent: Tensor, positions: Tensor, entries: Tensor | None, selected: Tensor | None
    ) -> Tensor:
        """Attend in blocks of the window's size, and to all entries under a mask, and project back to `[T, hidden]`."""
        size, tokens, device = self.config.window, query.shape[0], query.device
        blocks = latent.unflatten(0, (-1, size))
        keys = torch.cat((torch.cat((torch.zeros_like(blocks[:1]), blocks[:-1])), blocks), dim=1)
        scores = torch.einsum("bthd,bkd->bthk", query.unflatten(0, (-1, size)), keys).float().flatten(0, 1)
        place, key = torch.arange(tokens, device=device).unsqueeze(1), torch.arange(2 * size, device=device)
        behind = key - size - place % size
        masks = (behind <= 0) & (behind > -size) & ((place >= size) | (key >= size))
        if entries is not None:
            complete = complete_entries(positions, entries.shape[0], self.config.ratio)
            if selected is not None:
                complete = complete & torch.zeros_like(complete).scatter(1, selected, True)
            scores = torch.cat((scores, torch.matmul(query, entries.t()).float()), dim=-1)
            masks = torch.cat((masks, complete), dim=1)
        scores = (scores * self.config.head_dim**-0.5).masked_fill(~masks.unsqueeze(1), -torch.inf)
        probabilities = self._probabilities(scores).to(query.dtype)
        local = torch.einsum("bthk,bkd->bthd", probabilities[..., : 2 * size].unflatten(0, (-1, size)), keys).flatten(0, 1)
        if entries is not None:
            local = local + torch.matmul(probabilities[..., 2 * size :], entries)
        return self._project(local, positions)


@torch.no_grad()
def build(config: Config, device: torch.device | str, seed: int = 0) -> Attention:
    """Return a layer with random weights, N(0, 1 / fan_in) each, made on `device`; on "meta" it has shapes only."""
    device = torch.device(device)
    generator = generator_on(device, seed)
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
    options: dict[str, Any] = {"generator": generator_on(device, seed), "device": device}
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


def tell(target: str = "h200") -> None:
    """Print in a few lines which products of V4-Flash's CSA layer run side by side in its plan."""
    from graphstreams import explain

    report = explain(*flash(), None if torch.cuda.is_available() else target)
    found = ", ".join(f"{one} with {other}" for one, other in side_by_side(report)) or "no products"
    print(f"V4-Flash, CSA layer, TP 8, 1 token: {report.verdict}; side by side {found}")
    if report.plan is not None:
        streams, gain = report.plan.streams, report.plan.serial_us / report.plan.streamed_us
        print(f"predicted for {report.device} on {streams} streams: {gain:.2f} times as fast as on one")


def bench(tokens: int) -> tuple[nn.Module, Callable[[int], Sequence[Any]]]:
    """Return V4-Flash's CSA layer for TP 8 on the GPU and a maker of fresh inputs, for `graphstreams bench`."""
    return Layer(Config.flash(tokens=tokens, tp=8), build, example_inputs).on_gpu()


def flash() -> tuple[Attention, tuple[Tensor, ...]]:
    """Return V4-Flash's CSA layer for TP 8 and its inputs on the meta device, for `graphstreams explain`."""
    config = Config.flash(tp=8)
    return build(config, "meta"), example_inputs(config, "meta")


if __name__ == "__main__":
    raise SystemExit(main())
