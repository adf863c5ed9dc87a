"""Models of transformers with random weights, of realistic widths and few layers, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Settings = dict[str, Any]
HEADS_8: Settings = {"num_key_value_heads": 8}
SIZES_7B: Settings = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, **HEADS_8}
WORDS: Settings = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TINY: Settings = {
    **WORDS, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip
LATENT: Settings = {
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "n_routed_experts": 8, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
STARTS: Settings = {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}
IMAGE_WORDS: Settings = {"boi_token_index": 120, "eoi_token_index": 121, "image_token_index": 122}  # of the tiny one


def decoder_layers(count: int) -> Settings:
    """Return the setting for so many layers of a decoder."""
    return {"num_hidden_layers": count}


@dataclass(frozen=True)
class Model:
    """A model by the name of its configuration, with what differs from that one's defaults."""

    config: str
    full: Settings = field(default_factory=dict)
    tiny: Settings = field(default_factory=dict)  # differs from TINY
    layers: Callable[[int], Settings] = decoder_layers
    kind: str = "AutoModelForCausalLM"

    def settings(self, layers: int, tiny: bool) -> Settings:
        """Return the arguments of the configuration."""
        base = TINY if self.kind == "AutoModelForCausalLM" else {}
        return merged(merged(base, self.tiny) if tiny else self.full, self.layers(layers))


def merged(some: Mapping[str, Any], others: Mapping[str, Any]) -> Settings:
    """Return both, the second one's values where both have one, and dicts in them merged too."""
    found = dict(some)
    for name, value in others.items():
        found[name] = merged(found[name], value) if isinstance(value, Mapping) and name in found else value
    return found


def _hybrid(count: int) -> Settings:
    """Bamba: one layer of attention in four, the others are Mamba's."""
    return {**decoder_layers(count), "attn_layer_indices": list(range(min(2, count - 1), count, 4))}


def _sliding(count: int) -> Settings:
    """Gemma 3: the last layer attends to all tokens, the others to those nearby; so many layers for images too."""
    kinds = ["sliding_attention"] * (count - 1) + ["full_attention"]
    return {"text_config": {**decoder_layers(count), "layer_types": kinds}, "vision_config": decoder_layers(count)}


def _both_stacks(count: int) -> Settings:
    return {"num_layers": count, "num_decoder_layers": count}


# Cohere's default sizes are those of a 35B model, Bamba's those of the 9.8B one, Qwen2-MoE's those of A2.7B.
MODELS: dict[str, Model] = {
    "cohere": Model("CohereConfig"),
    "cohere_7b": Model("CohereConfig", SIZES_7B),
    "gpt_neox": Model("GPTNeoXConfig", {"hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 32}),
    "qwen2_moe": Model(
        "Qwen2MoeConfig", {}, {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "num_experts": 8}
    ),
    "bamba": Model(
        "BambaConfig", {}, {"mamba_n_heads": 8, "mamba_d_state": 16, "mamba_chunk_size": 16}, layers=_hybrid
    ),
    "deepseek_v32": Model(  # its own widths, with a quarter of its experts
        "DeepseekV32Config", {"n_routed_experts": 64, "first_k_dense_replace": 1},
        {**LATENT, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 16},
    ),
    "t5": Model(  # the sizes of Flan-T5 XL
        "T5Config", {"d_model": 2048, "d_ff": 5120, "num_heads": 32, **STARTS},
        {"vocab_size": 128, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, **STARTS},
        layers=_both_stacks, kind="AutoModelForSeq2SeqLM",
    ),
    "gemma3": Model(  # the sizes of the 4B model
        "Gemma3Config",
        {"text_config": {"hidden_size": 2560, "intermediate_size": 10240, "sliding_window": 1024},
         "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "image_size": 896,
                           "patch_size": 14, "vision_use_head": False}},
        {"text_config": {**TINY, "head_dim": 16, "sliding_window": 32},
         "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "image_size": 32,
                           "patch_size": 8, "vision_use_head": False},
         "mm_tokens_per_image": 4, **IMAGE_WORDS},
        layers=_sliding, kind="AutoModelForImageTextToText",
    ),
    "llama": Model("LlamaConfig", {**SIZES_7B, "vocab_size": 128256}),
    "qwen3": Model("Qwen3Config", HEADS_8),
    "qwen3_moe": Model("Qwen3MoeConfig", {}, {"moe_intermediate_size": 32, "num_experts": 8}),
    "mixtral": Model("MixtralConfig", {}, {"num_local_experts": 4}),
    "olmo2": Model("Olmo2Config"),
    "phi3": Model("Phi3Config"),
    "cohere2": Model("Cohere2Config", {**SIZES_7B, "head_dim": 128}, {"head_dim": 16}),
    "glm4": Model("Glm4Config", {}, {"head_dim": 16}),
    "gpt_oss": Model("GptOssConfig", {}, {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "gptj": Model("GPTJConfig"),
    "falcon": Model(
        "FalconConfig",
        {"hidden_size": 4096, "num_attention_heads": 64, "new_decoder_architecture": True, "num_kv_heads": 8},
    ),
}  # fmt: skip
# Parallel blocks, experts with a shared one, two stacks, images, Mamba with attention, and sparse latent attention.
SIX = ("cohere_7b", "qwen2_moe", "t5", "gemma3", "bamba", "deepseek_v32")  # the largest last


def build(name: str, layers: int, device: str, tiny: bool) -> Any:
    """Return a model with random weights in bfloat16."""
    import transformers

    model = MODELS[name]
    config = getattr(transformers, model.config)(**model.settings(layers, tiny))
    torch.manual_seed(0)
    with torch.device(device):
        built = getattr(transformers, model.kind).from_config(config, dtype=torch.bfloat16)
    built.eval().requires_grad_(False)
    built.generation_config.eos_token_id = None  # so that a text has as many tokens as are asked for
    built.generation_config.pad_token_id = 0
    return built


def prompt_of(config: Any, length: int, seed: int, device: str) -> dict[str, torch.Tensor]:
    """Return what `generate` is asked: random tokens and, of a model that sees, a random image before them."""
    rng = torch.Generator().manual_seed(seed)
    sees = hasattr(config, "boi_token_index")
    most = config.boi_token_index if sees else config.get_text_config().vocab_size
    words = torch.randint(3, most, (1, length), generator=rng)
    found = {"input_ids": words}
    if sees:
        side, places = config.vision_config.image_size, [config.image_token_index] * config.mm_tokens_per_image
        image = torch.tensor([[config.boi_token_index, *places, config.eoi_token_index]])
        found["input_ids"] = torch.cat([image, words], 1)
        found["pixel_values"] = torch.randn(1, 3, side, side, generator=rng).to(torch.bfloat16)
    found["attention_mask"] = torch.ones_like(found["input_ids"])
    return {name: value.to(device) for name, value in found.items()}
