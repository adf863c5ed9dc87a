"""Place streams by hand in decoder layers: those of `hand_streams.py` in attention, the shared expert beside the routed ones.

Each half of a layer is compiled by itself, because Dynamo of torch 2.15 allows no record of an event after a write to an input,
which every attention makes. Nothing is lost by the cut: it is where an all-reduce is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepseek_decoder import Decoder, DecoderLayer
from deepseek_experts import MixtureOfExperts
from deepseek_parts import parts_of
from deepseek_residual import Carried
from deepseek_v4 import Attention
from hand_streams import PHASES, HandStreams, beside, join
from hand_streams_v4 import HandStreamsV4
from torch import Tensor, nn

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def by_hand(decoder: Decoder, settings: Mapping[str, Any], phases: frozenset[int] = PHASES["both"]) -> Callable[..., Tensor]:
    """Return a decoder with streams by hand, whose pieces are compiled with these settings of Inductor."""
    return HandDecoder(decoder, phases, settings)


class FirstHalf(nn.Module):
    """The first half of a V3.2 layer. Beside its result it returns what several streams read, as `HandStreams` does."""

    def __init__(self, layer: DecoderLayer, phases: frozenset[int]) -> None:
        super().__init__()
        self.layer, self.attention = layer, HandStreams(parts_of(layer.attention), phases)

    def forward(self, carried: Carried, positions: Tensor, *caches: Tensor) -> tuple[Carried, Any]:
        x, held = self.layer.before_attention(carried)
        output, read_by_both = self.attention(x, positions, *caches)
        return (self.layer.summed(output), *held), (x, read_by_both)


class SecondHalf(nn.Module):
    """The second half of a layer, its shared expert on a side stream. Beside its result it returns what both streams read.

    With `sums` it begins with the all-reduce of what attention has returned.
    """

    def __init__(self, layer: DecoderLayer, sums: bool) -> None:
        super().__init__()
        self.layer, self.sums = layer, sums
        self.side = torch.cuda.Stream() if torch.cuda.is_available() else None

    def forward(self, carried: Carried) -> tuple[Carried, Any]:
        if self.sums:
            carried = (self.layer.summed(carried[0]), *carried[1:])
        mlp = self.layer.mlp
        x, held = self.layer.before_mlp(carried)
        if not isinstance(mlp, MixtureOfExperts):
            return (self.layer.summed(mlp(x)), *held), ()
        shared, done = beside(self.side, mlp.shared, x)
        routed = mlp.routed(x)
        join(done)
        return (self.layer.summed(mlp.joined(routed, shared)), *held), x


class HandDecoder:
    """A decoder with streams by hand. It takes and returns what the decoder does; without CUDA everything runs in order.

    Without `settings` nothing is compiled.
    """

    def __init__(self, decoder: Decoder, phases: frozenset[int], settings: Mapping[str, Any] | None = None) -> None:
        self.decoder = decoder

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return function if settings is None else torch.compile(function, fullgraph=True, options=dict(settings))

        self.first: list[Callable[..., Any]] = []
        self.second: list[Callable[..., Any]] = []
        for layer in decoder.layers:
            assert isinstance(layer, DecoderLayer)
            v4 = isinstance(layer.attention, Attention)
            self.first.append(_V4FirstHalf(layer, phases, settings, compiled) if v4 else compiled(FirstHalf(layer, phases)))
            self.second.append(compiled(SecondHalf(layer, sums=v4)))
        self.finish = compiled(decoder.finish)

    def __call__(self, hidden: Tensor, positions: Tensor, *caches: Tensor) -> Tensor:
        """Return the hidden state after the last layer. What several streams read is held until all of it is enqueued."""
        carried, held = self.decoder.start(hidden), []
        for own, first, second in zip(self.decoder.caches_by_layer(caches), self.first, self.second, strict=True):
            carried, read_by_both = first(carried, positions, *own)
            held.append(read_by_both)
            carried, read_by_both = second(carried)
            held.append(read_by_both)
        return self.finish(carried)  # type: ignore[no-any-return]


class _V4FirstHalf:
    """The first half of a V4 layer without its all-reduce, compiled in pieces, as `hand_streams_v4.py` has to."""

    def __init__(
        self, layer: DecoderLayer, phases: frozenset[int], settings: Mapping[str, Any] | None, compiled: Compile
    ) -> None:
        assert isinstance(layer.attention, Attention)
        self.before, self.attention = compiled(layer.before_attention), HandStreamsV4(layer.attention, phases, settings)

    def __call__(self, carried: Carried, positions: Tensor, *caches: Tensor) -> tuple[Carried, Any]:
        x, held = self.before(carried)
        return (self.attention(x, positions, *caches), *held), x
