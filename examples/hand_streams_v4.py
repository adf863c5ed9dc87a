"""Place streams by hand in a V4 layer, as vLLM's pull request 41061 does around its GEMMs, but in a graph that is compiled.

Phase 1 is the down projection beside the GEMMs of the compressor, of the indexer's weights and of its compressor, each on a
stream of its own. Phase 2 is the query's up projection with the latent beside the compressor beside the indexer. On the CPU it
has the layer's bits; on CUDA Inductor of torch 2.15 does not compile it, because it writes inputs behind waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepseek_v4 import Attention
from hand_streams import PHASES, beside, join
from torch import Tensor

SIDES = 3  # streams beside the caller's


def by_hand(
    module: torch.nn.Module, settings: Mapping[str, Any], phases: frozenset[int] = PHASES["both"]
) -> Callable[..., Any]:
    """Compile a V4 layer with its `phases` on streams, with these settings of Inductor."""
    if not isinstance(module, Attention):
        raise TypeError(f"streams by hand are known for a V4 layer, not for {type(module).__name__}")
    compiled = torch.compile(HandStreamsV4(module, phases), fullgraph=True, options=dict(settings))
    return lambda *values: compiled(*values)[0]


class HandStreamsV4(torch.nn.Module):
    """A V4 layer with its phases on side streams; without CUDA everything runs in order.

    It takes what the layer does, and returns the layer's output and a list of what more than one stream touches: torch 2.15
    frees that once its last reader on its own stream is enqueued, unless it is an output.
    """

    def __init__(self, layer: Attention, phases: frozenset[int]) -> None:
        super().__init__()
        self.layer, self.phases = layer, phases
        self.sides = [torch.cuda.Stream() if torch.cuda.is_available() else None for _ in range(SIDES)]

    def forward(self, hidden: Tensor, positions: Tensor, window: Tensor, *caches: Tensor) -> tuple[Tensor, list[Tensor]]:
        layer = self.layer
        qkv, kv_scores, weights = self._gemms(hidden)
        q_c = layer.query_latent(qkv)
        # Nothing on a side stream writes an input, because Dynamo allows no record of an event after that. So the caller's
        # stream has the last compressor, which writes what the indexer reads.
        (query, latent), query_done = self._aside(2, 0, self._query, q_c, qkv, positions)
        first = [self._aside(2, 1, layer.pooled, 0, kv_scores[0], positions, caches)] if layer.indexer else []
        pooled = [made for made, _ in first]
        if kv_scores:
            pooled.append(layer.pooled(len(kv_scores) - 1, kv_scores[-1], positions, caches))
            layer.write(len(kv_scores) - 1, pooled[-1], positions, caches)
        selected = layer.selected(q_c, weights, positions, pooled[1][1], caches[2]) if layer.indexer else None
        for _, done in first:
            join(done)
            layer.write(0, pooled[0], positions, caches)
        join(query_done)
        layer.insert(latent, positions, window)
        out = layer.finish(query, latent, positions, window, pooled[0][1] if pooled else None, selected, caches)
        shared = [qkv, q_c, query, latent, *kv_scores, *(tensor for made, _ in first for tensor in made)]
        return out, shared if weights is None else [*shared, weights]

    def _gemms(self, hidden: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Run phase 1. Return the down projection, each compressor's latents and scores, and the indexer's weights."""
        layer, gemms = self.layer, [compressor.wkv_gate for compressor in self.layer.compressors()]
        if layer.indexer is not None:
            gemms.insert(1, layer.indexer.weights_proj)
        started = [self._aside(1, side, gemm, hidden) for side, gemm in enumerate(gemms)]
        qkv = layer.wqa_wkv(hidden)
        for _, done in started:
            join(done)
        results = [result for result, _ in started]
        weights = results.pop(1) if layer.indexer is not None else None
        return qkv, results, weights

    def _query(self, q_c: Tensor, qkv: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.query(q_c, positions), self.layer.latent(qkv, positions)

    def _aside(self, phase: int, side: int, part: Callable[..., Any], *values: Any) -> tuple[Any, torch.cuda.Event | None]:
        """Run `part` on a side stream if its phase is on streams, otherwise on the caller's."""
        return beside(self.sides[side] if phase in self.phases else None, part, *values)
