"""The pass for vLLM's pieces of a model: what its operators touch, which sizes a piece is for, and how its cache is keyed.

vLLM cuts a model's graph at its attention operators and compiles each piece with Inductor, for ranges of token counts. The pass
stands in front of vLLM's own lowering and of `fix_functionalization`, but only marks a piece there; the plan and the proof are
for the code that Inductor generates behind them all (docs/design/024). vLLM replays the pieces in CUDA graphs.

vLLM looks for a pass by the last part of its dotted name, in the namespace of the top-level package. So this module, when it is
imported, puts its pass there: `{"post_grad_custom_post_pass": "graphstreams.integrations.vllm.vllm_pass"}`.
Read in vLLM 0.33.0: `config/compilation.py`, `compilation/passes/`, `compilation/backends.py`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from vllm.compilation.passes import inductor_pass

import graphstreams
from graphstreams.autotuning.synthetic_inputs import synthetic_inputs
from graphstreams.backend import StreamPass
from graphstreams.dynamic_shapes.crossover import dynamic_tokens
from graphstreams.ir.declarations import Declarations
from graphstreams.options import Options

log = logging.getLogger("graphstreams")

PASS_KEY = "post_grad_custom_post_pass"
CACHE = "vllm_kv_cache"  # the keys and values of all layers, which operators find by a layer's name
WORKSPACE = "vllm_workspace"  # the scratch memory that operators of one engine share
# What vLLM's own operators touch beside their arguments (`model_executor/layers/attention/`, `v1/worker/workspace.py`,
# `compilation/passes/fusion/mla_rope_kvcache_cat_fusion.py`). All others of its namespace are unknown: they keep their place.
DECLARED: Declarations = (
    ("vllm::unified_attention_with_output", (CACHE, WORKSPACE)),
    ("vllm::unified_kv_cache_update", (CACHE,)),
    ("vllm::unified_mla_attention_with_output", (CACHE, WORKSPACE)),
    ("vllm::unified_mla_kv_cache_update", (CACHE,)),
    ("vllm::fused_rope_unified_mla_kv_cache_update", (CACHE,)),  # what vLLM makes of it where it does not cut there
)


class VllmPass(StreamPass, inductor_pass.InductorPass):  # type: ignore[misc]
    """A StreamPass that vLLM takes for one of its own. Its options come from the environment, if none are given."""

    captured = True
    guarded = False  # vLLM drops torch's guards

    def __init__(self, options: Options | Mapping[str, Any] | None = None) -> None:
        """Raises OptionError for options that are none."""
        chosen = options if isinstance(options, Options) else Options.from_dict(options)
        super().__init__(replace(chosen, operators=(*chosen.operators, *DECLARED)))

    def uuid(self) -> str:
        """Identify the pass in the keys of Inductor's cache and of vLLM's; one that can't be identified never hits."""
        return super().uuid() or uuid.uuid4().hex

    def name_of(self, name: str) -> str:
        """Return the graph's name with the numbers of tokens that vLLM compiles it for, such as "0_inference_tokens_1_8192"."""
        tokens = _tokens()
        return f"{name}_tokens_{tokens.start}_{tokens.end}" if tokens else name

    def planned_with(self, gm: fx.GraphModule) -> tuple[Options, Sequence[Any]]:
        """Return the options, with the end of a range as the most tokens, and for a single size inputs to measure with.

        vLLM compiles from shapes alone, and for a range from those of its largest batch.
        """
        tokens, options = _tokens(), self.options
        if tokens is None:
            return options, ()
        if tokens.is_single_size():
            return options, self._inputs_for(gm)
        most = tokens.end if options.max_tokens is None else min(tokens.end, options.max_tokens)
        example = dynamic_tokens(gm)
        return (replace(options, max_tokens=most) if example is not None and most < example.example else options), ()

    def _inputs_for(self, gm: fx.GraphModule) -> Sequence[Any]:
        """Return inputs to measure a piece with; none if nothing is to be measured, or if they can't be made."""
        if self.options.costs not in ("auto", "measured") or not torch.cuda.is_available():
            return ()
        try:
            return synthetic_inputs(gm, self.options.operators)
        except Exception:  # the engine needs no plan to go on
            log.warning("graphstreams: a piece is planned from modelled times, for no inputs can be made", exc_info=True)
            return ()


def _tokens() -> Any:
    """Return the range of numbers of tokens that vLLM is compiling for; None if it is not compiling a piece."""
    context = inductor_pass._pass_context
    return None if context is None else context.compile_range


def add_pass(vllm_config: Any) -> None:
    """Put the pass into an engine's configuration, unless that has one of its user's or does not compile pieces."""
    compilation = vllm_config.compilation_config
    settings = compilation.inductor_compile_config
    if PASS_KEY not in settings:
        settings[PASS_KEY] = vllm_pass
    elif not isinstance(settings[PASS_KEY], VllmPass):
        log.warning("graphstreams: vLLM is given another %s, so its graphs run as they are: %r", PASS_KEY, settings[PASS_KEY])


vllm_pass = VllmPass()
graphstreams.vllm_pass = vllm_pass  # type: ignore[attr-defined]
