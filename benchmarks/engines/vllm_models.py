"""Models for `vllm_generate`: configurations without weights, and the sides that each is measured as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SERIAL, OURS, AGAIN, BY_HAND = "vllm", "graphstreams", "vllm again", "by hand"
PASS = {"post_grad_custom_post_pass": "graphstreams.integrations.vllm.vllm_pass"}
DUAL_STREAM = "VLLM_COHERE2_ATTN_MOE_DUAL_STREAM_TOKEN_THRESHOLD"  # of vLLM's cohere2_moe; 0 turns its own streams off

# How CUDA graphs are captured, by vLLM's names. Under FULL the model is not cut at attention.
MODES: Mapping[str, Mapping[str, Any]] = {
    "FULL_AND_PIECEWISE": {"cudagraph_mode": "FULL_AND_PIECEWISE"},
    "PIECEWISE": {"cudagraph_mode": "PIECEWISE"},
    "FULL": {"cudagraph_mode": "FULL", "splitting_ops": []},
}


@dataclass(frozen=True)
class Model:
    """A configuration in the form of transformers, what vLLM is told beside it, and the environment of each side."""

    config: Mapping[str, Any]
    layers: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sides: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {SERIAL: {}, OURS: {}, AGAIN: {}})


_SIZES_7B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32768, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
_COHERE = {
    **_SIZES_7B, "architectures": ["CohereForCausalLM"], "model_type": "cohere", "logit_scale": 0.0625,
    "layer_norm_eps": 1e-5, "tie_word_embeddings": True, "use_qk_norm": False,
}  # fmt: skip
# The public configuration of DeepSeek-V3.2, with fewer layers and experts.
_V32 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v32", "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
    "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048, "vocab_size": 32768,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "rope_theta": 10000,
}  # fmt: skip
_V3 = {
    **{name: value for name, value in _V32.items() if not name.startswith("index_")}, "model_type": "deepseek_v3",
}  # fmt: skip

MODELS: Mapping[str, Model] = {
    "tiny": Model({**_COHERE, "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
                   "num_key_value_heads": 8, "vocab_size": 1024}, layers=2),
    "cohere": Model(_COHERE, layers=24),
    "gptj": Model(
        {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_positions": 4096,
         "n_inner": 16384, "rotary_dim": 64, "vocab_size": 32768, "torch_dtype": "bfloat16", "tie_word_embeddings": False},
        layers=24,
    ),
    "cohere2_moe": Model(
        {**_SIZES_7B, "architectures": ["Cohere2MoeForCausalLM"], "model_type": "cohere2_moe", "intermediate_size": 1536,
         "num_experts": 64, "num_experts_per_tok": 8, "num_shared_experts": 0, "first_k_dense_replace": 0,
         "expert_selection_fn": "sigmoid", "norm_topk_prob": True, "logit_scale": 0.0625, "layer_norm_eps": 1e-5,
         "tie_word_embeddings": True, "head_dim": 128, "sliding_window": 4096},
        layers=12,
        sides={SERIAL: {DUAL_STREAM: "0"}, OURS: {DUAL_STREAM: "0"}, AGAIN: {DUAL_STREAM: "0"}, BY_HAND: {DUAL_STREAM: "256"}},
    ),
    "deepseek_v3": Model(_V3, layers=6),
    "deepseek_v32": Model(_V32, layers=6, arguments={"kv_cache_dtype": "auto"}),
}  # fmt: skip


def config_of(model: Model, layers: int | None = None) -> dict[str, Any]:
    """Return the contents of `config.json`, with `layers` layers or the model's own number."""
    count = layers or model.layers
    named = {"n_layer": count} if "n_embd" in model.config else {"num_hidden_layers": count}
    extra: dict[str, Any] = {}
    if model.config["model_type"] == "cohere2_moe":
        extra = {"layer_types": ["full_attention"] * count, "mlp_layer_types": ["sparse"] * count}
    return {**model.config, **named, **extra, "bos_token_id": 1, "eos_token_id": 2}


def compilation_of(
    mode: str, side: str, sizes: list[int], ranges: list[int], single: list[int] | None = None
) -> dict[str, Any]:
    """Return vLLM's `compilation_config` of a side: CUDA graphs for `sizes` tokens, code for ranges that end at `ranges`.

    For each of the `single` numbers of tokens there is code of its own.
    """
    passes = {"inductor_passes": dict(PASS)} if side == OURS else {}
    ends = {"compile_ranges_endpoints": ranges} if ranges else {}
    return {**MODES[mode], **passes, **ends, "cudagraph_capture_sizes": sizes, "compile_sizes": single or []}
