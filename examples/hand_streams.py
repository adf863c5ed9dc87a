"""Place streams by hand in the model, as serving engines would write them if torch.compile can trace streams.

Phase 1 is vLLM's pull request 39943: the indexer's key GEMM and norm beside the down projection. Phase 2 is its issue 39308:
the query's up projection with RoPE beside the rest of the indexer. Both use one side stream, as 39308 asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepseek_parts import Parts, parts_of
from torch import Tensor

PHASES: dict[str, frozenset[int]] = {"phase 1": frozenset({1}), "phase 2": frozenset({2}), "both": frozenset({1, 2})}


def by_hand(
    module: torch.nn.Module, settings: Mapping[str, Any], phases: frozenset[int] = PHASES["both"]
) -> Callable[..., Any]:
    """Compile a layer or block of the V3.2 examples with its `phases` on streams, with these settings of Inductor."""
    compiled = torch.compile(HandStreams(parts_of(module), phases), fullgraph=True, options=dict(settings))
    return lambda *values: compiled(*values)[0]


class HandStreams(torch.nn.Module):
    """A module in parts with its phases on a side stream; without CUDA everything runs in order.

    It takes `(hidden, positions, *caches)` as the module does; the indexer's cache is the last. It returns the module's outputs
    and what both streams read: torch 2.15 frees that once its last reader on the caller's stream is enqueued, unless it is an
    output; `record_stream` marks a copy of it there.
    """

    def __init__(self, parts: Parts, phases: frozenset[int]) -> None:
        super().__init__()
        self.parts, self.phases = parts, phases
        self.side = torch.cuda.Stream() if torch.cuda.is_available() else None

    def forward(self, hidden: Tensor, positions: Tensor, *caches: Tensor) -> tuple[Any, Any]:
        parts = self.parts
        shared = parts.shared(hidden)
        if 1 in self.phases:
            (key, projected), key_done = self._beside(parts.key, hidden, shared)
        q_c, qkv_a = parts.down(shared)
        if 2 in self.phases:
            query, query_done = self._beside(parts.query, q_c, positions)
        if 1 in self.phases:
            join(key_done)
        else:
            key, projected = parts.key(hidden, shared)
        # After the last event that this stream records, because Dynamo allows no record after a write to an input.
        chosen = parts.chosen(q_c, key, projected, positions, caches[-1])
        kept = parts.kept(qkv_a, positions, *caches)
        if 2 in self.phases:
            join(query_done)
        else:
            query = parts.query(q_c, positions)
        read_by_both = (q_c,) if shared is hidden else (q_c, shared)  # an input that is an output would be copied
        return parts.finish(query, chosen, kept, positions, *caches), read_by_both

    def _beside(self, part: Callable[..., Any], *values: Any) -> tuple[Any, torch.cuda.Event | None]:
        return beside(self.side, part, *values)


def beside(side: torch.cuda.Stream | None, part: Callable[..., Any], *values: Any) -> tuple[Any, torch.cuda.Event | None]:
    """Run `part` on the stream `side`, after the caller's stream so far. Return its result and the event of its end."""
    if side is None:
        return part(*values), None
    done = torch.cuda.Event()
    # Not an event: at the start of a graph torch 2.15 moves kernels that read only inputs before the wait for one.
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = part(*values)
        done.record()
    return result, done


def join(done: torch.cuda.Event | None) -> None:
    """Let the caller's stream wait for the event, if there is one."""
    if done is not None:
        done.wait()
