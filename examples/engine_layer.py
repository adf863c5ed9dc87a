"""A decoder layer as serving engines write it: norm, RoPE, activation and attention are operators that write their outputs.

    python examples/engine_layer.py

Attention and MLP read one norm, as in Cohere's models, so they may run side by side; vLLM does that by hand for some models.
Operators of a library say what they write, and not what else they touch: the compiler has to keep them all in order. Declared
with the option `operators`, they are planned as native operators are. The attention also touches a resource, the "kv_cache",
because an engine's finds its cache in the context of a forward pass and not among its arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAMESPACE = "engine_layer"
DECLARED = {f"{NAMESPACE}::{name}": touched for name, touched in
            (("rms_norm", []), ("rotary_embedding", []), ("silu_and_mul", []), ("attention", ["kv_cache"]))}  # fmt: skip
EPSILON = 1e-6


@dataclass(frozen=True)
class Config:
    """The sizes of the layer."""

    hidden: int = 4096
    intermediate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    context: int = 4096
    tokens: int = 1
    dtype: torch.dtype = torch.bfloat16

    @classmethod
    def tiny(cls) -> Config:
        """Return sizes small enough for a CPU."""
        return cls(64, 96, 4, 2, 16, 32, 3, torch.float32)


def normalized(x: Tensor, weight: Tensor) -> Tensor:
    """Return the RMS norm over the last dimension, computed in fp32."""
    return nn.functional.rms_norm(x.float(), weight.shape, weight.float(), EPSILON).to(x.dtype)


def rotated(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Return `[T, heads, dim]` with halves rotated by `cos_sin` fp32 `[T, dim]`, cosines first."""
    cos, sin = cos_sin.unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def activated(x: Tensor) -> Tensor:
    """Return the first half of the columns through SiLU, times the second half."""
    gate, up = x.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def attended(query: Tensor, cache: Tensor) -> Tensor:
    """Return `[T, heads, dim]`: `query` attends to all of its sequence in `cache` `[T, 2, context, kv_heads, dim]`."""
    keys, values = (part.transpose(1, 2) for part in cache.unbind(1))
    # The heads of a group share keys and values: they are the rows of one query.
    grouped = query.unflatten(1, (keys.shape[1], -1))
    return nn.functional.scaled_dot_product_attention(grouped, keys, values).flatten(1, 2)


@torch.library.custom_op(f"{NAMESPACE}::rms_norm", mutates_args={"out"})
def rms_norm(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """Write the norm of `x` into `out`."""
    out.copy_(normalized(x, weight))


@torch.library.custom_op(f"{NAMESPACE}::rotary_embedding", mutates_args={"query", "key"})
def rotary_embedding(positions: Tensor, query: Tensor, key: Tensor, table: Tensor) -> None:
    """Rotate `query` and `key` in place."""
    for heads in (query, key):
        heads.copy_(rotated(heads, table[positions]))


@torch.library.custom_op(f"{NAMESPACE}::silu_and_mul", mutates_args={"out"})
def silu_and_mul(out: Tensor, x: Tensor) -> None:
    """Write the gated activation of `x` into `out`."""
    out.copy_(activated(x))


@torch.library.custom_op(f"{NAMESPACE}::attention", mutates_args={"out"})
def attention(out: Tensor, query: Tensor, cache: Tensor) -> None:
    """Write what `query` attends to into `out`."""
    out.copy_(attended(query, cache))


class DecoderLayer(nn.Module):
    """A layer of parallel attention and MLP, with operators of an engine or, as `native`, with those of torch."""

    table: Tensor

    def __init__(self, config: Config, native: bool = False) -> None:
        super().__init__()
        self.config, self.native = config, native
        width, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.norm = nn.Parameter(torch.ones(config.hidden, dtype=config.dtype))
        linear = {"bias": False, "dtype": config.dtype}
        self.qkv = nn.Linear(config.hidden, width + 2 * kv, **linear)  # type: ignore[arg-type]
        self.o_proj = nn.Linear(width, config.hidden, **linear)  # type: ignore[arg-type]
        self.gate_up = nn.Linear(config.hidden, 2 * config.intermediate, **linear)  # type: ignore[arg-type]
        self.down = nn.Linear(config.intermediate, config.hidden, **linear)  # type: ignore[arg-type]
        angles = torch.outer(torch.arange(config.context), 1e4 ** -torch.linspace(0, 1, config.head_dim // 2 + 1)[:-1])
        self.register_buffer("table", torch.cat((angles.cos(), angles.sin()), dim=-1), persistent=False)

    def forward(self, hidden: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        """Return `[T, hidden]` for one new token of each of T sequences.

        `hidden` is `[T, hidden]`, `positions` int64 `[T]`; `cache` has keys and values, `[T, 2, context, kv_heads, head_dim]`.
        """
        config = self.config
        normed = self._norm(hidden)
        sizes = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
        query, key, value = (part.unflatten(-1, (-1, config.head_dim)) for part in self.qkv(normed).split(sizes, dim=-1))
        query, key = self._rotate(positions, query, key)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        cache.index_put_((rows, torch.zeros_like(rows), positions), key)
        cache.index_put_((rows, torch.ones_like(rows), positions), value)
        out = self.o_proj(self._attend(query, cache).flatten(1))
        return hidden + out + self.down(self._activate(self.gate_up(normed)))

    def _norm(self, x: Tensor) -> Tensor:
        if self.native:
            return normalized(x, self.norm)
        out = torch.empty_like(x)
        rms_norm(out, x, self.norm)
        return out

    def _rotate(self, positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.native:
            return rotated(query, self.table[positions]), rotated(key, self.table[positions])
        rotary_embedding(positions, query, key, self.table)
        return query, key

    def _attend(self, query: Tensor, cache: Tensor) -> Tensor:
        if self.native:
            return attended(query, cache)
        out = torch.empty_like(query)
        attention(out, query, cache)
        return out

    def _activate(self, x: Tensor) -> Tensor:
        if self.native:
            return activated(x)
        out = x.new_empty(x.shape[0], x.shape[1] // 2)
        silu_and_mul(out, x)
        return out


@torch.no_grad()
def build(config: Config, device: str, native: bool = False, seed: int = 0) -> DecoderLayer:
    """Return a layer with random weights on a device; on "meta" it has shapes only."""
    torch.manual_seed(seed)
    with torch.device(device):
        return DecoderLayer(config, native).requires_grad_(False).eval()


def example_inputs(config: Config, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return random `(hidden, positions, cache)`."""
    torch.manual_seed(seed)
    shape = (config.tokens, 2, config.context, config.kv_heads, config.head_dim)
    with torch.device(device):
        hidden, cache = (torch.randn(size, dtype=config.dtype) for size in ((config.tokens, config.hidden), shape))
        return hidden, torch.randint(config.context, (config.tokens,)), cache


def layer() -> tuple[DecoderLayer, tuple[Tensor, Tensor, Tensor]]:
    """Return the layer of native operators at full size and its inputs on the meta device."""
    return build(Config(), "meta", native=True), example_inputs(Config(), "meta")


def reports(config: Config, target: str) -> dict[str, Any]:
    """Return the reports on the layer with native operators, and with an engine's as they are and declared."""
    from graphstreams import explain

    inputs = example_inputs(config, "meta")
    ways: dict[str, tuple[bool, dict[str, Any]]] = {
        "native": (True, {}), "undeclared": (False, {}), "declared": (False, {"operators": DECLARED}),
    }  # fmt: skip
    return {name: explain(build(config, "meta", native), inputs, target, options) for name, (native, options) in ways.items()}


def predicted(report: Any) -> float:
    """Return how many times faster a report's plan is predicted to be than one stream."""
    return float(report.plan.serial_us / report.plan.streamed_us) if report.plan else 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Show the plan of the declared layer, and what each way is predicted to gain. Return 1 if the declared one has none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1, help="sequences, each decoding one token (default 1)")
    parser.add_argument("--target", default="h200", help="the GPU to plan for (default h200)")
    arguments = parser.parse_args(argv)
    found = reports(Config(tokens=arguments.tokens), arguments.target)
    print(found["declared"])
    for name, report in found.items():
        gain = f"{predicted(report):.3f}x predicted" if report.verdict == "clean" else f"serial: {report.reason}"
        print(f"{name} operators: {gain}")
    return int(found["declared"].verdict != "clean")


if __name__ == "__main__":
    raise SystemExit(main())
