"""Place streams by hand in a V4 layer, as vLLM's pull request 41061 does, around parts that are compiled one by one.

Phase 1 is the down projection beside the GEMMs of the compressor, of the indexer's weights and of its compressor, each on a
stream of its own. Phase 2 is the query's up projection with the latent beside the compressor beside the indexer; the streams of
each write its cache and state. In one compiled graph this is not possible: Inductor of torch 2.15 compiles no writes to inputs
behind a wait on CUDA.
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
    """Return a V4 layer with its `phases` on streams, whose parts are compiled with these settings of Inductor."""
    if not isinstance(module, Attention):
        raise TypeError(f"streams by hand are known for a V4 layer, not for {type(module).__name__}")
    return HandStreamsV4(module, phases, settings)


class HandStreamsV4(torch.nn.Module):
    """A V4 layer with its phases on side streams; without CUDA everything runs in order.

    It takes and returns what the layer does. With `settings` each part is compiled with these settings of Inductor. What
    several streams touch is held until the last of them is joined.
    """

    def __init__(self, layer: Attention, phases: frozenset[int], settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.layer, self.phases = layer, phases
        self.sides = [torch.cuda.Stream() if torch.cuda.is_available() else None for _ in range(SIDES)]
        compressors, indexer = layer.compressors(), layer.indexer
        parts: list[Callable[..., Any]] = [self._down, self._query, self._finish, self._indexed]
        if settings is not None:
            parts = [torch.compile(part, fullgraph=True, options=dict(settings)) for part in parts]
        self.down, self.query, self.finish, self.indexed = parts
        gemms: list[Callable[..., Any]] = [compressor.wkv_gate for compressor in compressors]
        gemms += [indexer.weights_proj] if indexer else []
        pools: list[Callable[..., Any]] = [self._pool_of(index) for index in range(len(compressors))]
        if settings is not None:
            gemms = [torch.compile(gemm, fullgraph=True, options=dict(settings)) for gemm in gemms]
            pools = [torch.compile(pool, fullgraph=True, options=dict(settings)) for pool in pools]
        self.gemms, self.pools = gemms, pools

    def forward(self, hidden: Tensor, positions: Tensor, window: Tensor, *caches: Tensor) -> Tensor:
        # In the order of the layer's parameters: its compressor, the indexer's weights, its compressor.
        order = (0, 2, 1) if self.layer.indexer is not None else range(len(self.gemms))
        started = {index: self._aside(1, side, self.gemms[index], hidden) for side, index in enumerate(order)}
        qkv, q_c = self.down(hidden)
        for _, done in started.values():
            join(done)
        scores = [started[index][0] for index in range(len(self.pools))]
        (query, latent), query_done = self._aside(2, 0, self.query, q_c, qkv, positions)
        # The indexer has the caller's stream, because it takes longest.
        pooled = [self._aside(2, 1, self.pools[0], scores[0], positions, *caches)] if scores else []
        entries, selected = (pooled[0][0] if pooled else None), None
        if self.layer.indexer is not None:
            made = self.pools[1](scores[1], positions, *caches)
            selected = self.indexed(q_c, started[2][0], positions, made, caches[2])
        for _, done in [*pooled, (None, query_done)]:
            join(done)
        return self.finish(query, latent, positions, window, entries, selected, *caches)  # type: ignore[no-any-return]

    def _down(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        qkv = self.layer.wqa_wkv(hidden)
        return qkv, self.layer.query_latent(qkv)

    def _query(self, q_c: Tensor, qkv: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.query(q_c, positions), self.layer.latent(qkv, positions)

    def _pool_of(self, index: int) -> Callable[..., Tensor]:
        """Return what compresses and writes with compressor `index`, and returns the entries that were made."""

        def pool(kv_score: Tensor, positions: Tensor, *caches: Tensor) -> Tensor:
            made = self.layer.pooled(index, kv_score, positions, caches)
            self.layer.write(index, made, positions, caches)
            return made[1]

        return pool

    def _indexed(self, q_c: Tensor, weights: Tensor, positions: Tensor, entries: Tensor, cache: Tensor) -> Tensor | None:
        return self.layer.selected(q_c, weights, positions, entries, cache)

    def _finish(
        self, query: Tensor, latent: Tensor, positions: Tensor, window: Tensor, entries: Tensor | None,
        selected: Tensor | None, *caches: Tensor,
    ) -> Tensor:  # fmt: skip
        self.layer.insert(latent, positions, window)
        return self.layer.finish(query, latent, positions, window, entries, selected, caches)

    def _aside(self, phase: int, side: int, part: Callable[..., Any], *values: Any) -> tuple[Any, torch.cuda.Event | None]:
        """Run `part` on a side stream if its phase is on streams, otherwise on the caller's."""
        return beside(self.sides[side] if phase in self.phases else None, part, *values)
