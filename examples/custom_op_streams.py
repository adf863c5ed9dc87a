"""Put two phases of the V3.2 examples behind opaque operators, as vLLM's pull request 39943 does in a compiled model.

The phases are those of `hand_streams.py`. Each operator's body forks a side stream, runs a function on either stream and
joins. The functions are compiled apart, so both keep Inductor's fusions; the graph around them sees one operator. As in vLLM,
an operator finds its module by a name.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepseek_parts import BlockParts, Parts, Tensors, parts_of
from torch import Tensor

_modules: weakref.WeakValueDictionary[str, CustomOpStreams] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def by_operators(
    module: torch.nn.Module, settings: Mapping[str, Any], phases: frozenset[int] = frozenset({1, 2})
) -> Callable[..., Any]:
    """Compile a layer or block of the V3.2 examples with its `phases` in operators, with these settings of Inductor."""
    opaque = CustomOpStreams(parts_of(module), phases, settings)
    return torch.compile(opaque, fullgraph=True, options=dict(settings))


class CustomOpStreams(torch.nn.Module):
    """A module in parts whose `phases` are opaque operators; without CUDA their bodies run in order.

    It takes and returns what the module does. With `settings` each path is compiled with these settings of Inductor.
    """

    def __init__(self, parts: Parts, phases: frozenset[int], settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if parts.layer.config.fp8:
            raise ValueError("the operators return tensors in bf16 only, so they are not for an fp8 layer")
        self.parts, self.phases = parts, phases
        self.name = f"module{next(_numbers)}"
        _modules[self.name] = self
        paths: tuple[Callable[..., Any], ...] = (parts.down, parts.key, parts.query, self._rest)
        if settings is not None:
            paths = tuple(torch.compile(path, fullgraph=True, options=dict(settings)) for path in paths)
        self.down, self.key, self.query, self.rest = paths
        self.side = torch.cuda.Stream() if torch.cuda.is_available() else None
        # Made once, as in vLLM: an operator that makes events at every call costs more on the host.
        self.events = [torch.cuda.Event() for _ in range(4)] if self.side else []
        ops = torch.ops.deepseek_operators
        self.second = ops.block_phase_2 if isinstance(parts, BlockParts) else ops.layer_phase_2

    def forward(self, hidden: Tensor, positions: Tensor, *caches: Tensor) -> Any:
        parts = self.parts
        if 1 in self.phases:
            q_c, qkv_a, key, projected = torch.ops.deepseek_operators.phase_1(hidden, self.name)
        else:
            (q_c, qkv_a), (key, projected) = parts.down(hidden), parts.key(hidden, hidden)
        if 2 in self.phases:
            query, chosen, *kept = self.second(q_c, qkv_a, key, projected, positions, *caches, self.name)
        else:
            query, (chosen, *kept) = parts.query(q_c, positions), self._rest(q_c, qkv_a, key, projected, positions, *caches)
        return parts.finish(query, chosen, tuple(kept), positions, *caches)

    def phase_1(self, hidden: Tensor) -> Tensors:
        """Run the down projection beside the indexer's key. Return `(q_c, qkv_a, key, projected)`."""
        down, key = self._beside(0, (self.down, (hidden,)), (self.key, (hidden, hidden)))
        return (*down, *key)

    def phase_2(self, q_c: Tensor, *values: Tensor) -> Tensors:
        """Run the rest of the indexer beside the query. Return `(query, chosen, *kept)`. `values` are those of `_rest`."""
        positions = values[3]
        rest, query = self._beside(2, (self.rest, (q_c, *values)), (self.query, (q_c, positions)))
        return (query, *rest)

    def _rest(self, q_c: Tensor, qkv_a: Tensor, key: Tensor, projected: Tensor, positions: Tensor, *caches: Tensor) -> Tensors:
        chosen = self.parts.chosen(q_c, key, projected, positions, caches[-1])
        return (chosen, *self.parts.kept(qkv_a, positions, *caches))

    def _beside(self, first: int, main: tuple[Any, Tensors], beside: tuple[Any, Tensors]) -> tuple[Any, Any]:
        """Call both functions with their arguments, the second on the side stream. `first` is the index of two events."""
        if self.side is None:
            return main[0](*main[1]), beside[0](*beside[1])
        start, done = self.events[first : first + 2]
        start.record()
        with torch.cuda.stream(self.side):
            start.wait()
            other = beside[0](*beside[1])
            done.record()
        result = main[0](*main[1])
        done.wait()
        return result, other


def _phase_1(hidden: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _modules[name].phase_1(hidden)  # type: ignore[return-value]


def _block_phase_2(
    q_c: Tensor, qkv_a: Tensor, key: Tensor, projected: Tensor, positions: Tensor, index_cache: Tensor, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _modules[name].phase_2(q_c, qkv_a, key, projected, positions, index_cache)  # type: ignore[return-value]


def _layer_phase_2(
    q_c: Tensor, qkv_a: Tensor, key: Tensor, projected: Tensor, positions: Tensor, kv_cache: Tensor, index_cache: Tensor,
    name: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _modules[name].phase_2(q_c, qkv_a, key, projected, positions, kv_cache, index_cache)  # type: ignore[return-value]


def _first_shapes(hidden: Tensor, name: str) -> Tensors:
    config, tokens = _modules[name].parts.layer.config, hidden.shape[0]
    down, key = config.q_lora + config.kv_lora + config.rope, config.index_dim + config.index_heads
    widths = (config.q_lora, down, config.index_dim, key)
    return tuple(hidden.new_empty(tokens, width) for width in widths)


def _block_shapes(q_c: Tensor, *arguments: Any) -> Tensors:
    config, tokens = _modules[arguments[-1]].parts.layer.config, q_c.shape[0]
    query = q_c.new_empty(tokens, config.heads // config.tp, config.nope + config.rope)
    chosen = q_c.new_empty(tokens, config.context, dtype=torch.bool)
    return query, chosen, q_c.new_empty(tokens, config.kv_lora), q_c.new_empty(tokens, config.rope)


def _layer_shapes(q_c: Tensor, *arguments: Any) -> Tensors:
    config, tokens = _modules[arguments[-1]].parts.layer.config, q_c.shape[0]
    query = q_c.new_empty(tokens, config.heads // config.tp, config.kv_lora + config.rope)
    return query, q_c.new_empty(tokens, config.topk, dtype=torch.int64)


# As vLLM's `direct_register_custom_op` does: a call of a `torch.library.custom_op` goes through layers of Python, which would
# count against this variant if the host launches.
_library = torch.library.Library("deepseek_operators", "FRAGMENT")


def _register(name: str, function: Callable[..., Any], shapes: Callable[..., Tensors], mutates: tuple[str, ...] = ()) -> None:
    schema = torch.library.infer_schema(function, mutates_args=mutates)
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in ("CUDA", "CPU"):
        _library.impl(name, function, device)
    torch.library.register_fake(f"deepseek_operators::{name}", shapes, lib=_library)


_register("phase_1", _phase_1, _first_shapes)
_register("block_phase_2", _block_phase_2, _block_shapes, ("index_cache",))
_register("layer_phase_2", _layer_phase_2, _layer_shapes, ("kv_cache", "index_cache"))
