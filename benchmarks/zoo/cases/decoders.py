"""Language models of transformers with a static cache: a prompt, and one token behind it.

Full sizes are each configuration's own, with two layers and a smaller vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Dynamic, Made

Settings = dict[str, Any]
FULL: Settings = {"vocab_size": 32000, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TINY: Settings = {
    **FULL, "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16,
}  # fmt: skip
MOE: Settings = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
LATENT: Settings = {
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "num_key_value_heads": 4, "n_routed_experts": 8, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "num_experts_per_tok": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """A language model by the name of its configuration, with what differs from `FULL` and from `TINY`."""

    config: str
    full: Settings = field(default_factory=dict)
    tiny: Settings = field(default_factory=dict)
    static: bool = True  # whether a static cache can hold its layers; otherwise the cache grows


DECODERS = {
    "llama": Decoder("LlamaConfig"),
    "llama-32-heads": Decoder("LlamaConfig", {"num_key_value_heads": 8, "intermediate_size": 14336}),
    "qwen2": Decoder("Qwen2Config", {"num_key_value_heads": 4}),
    "qwen3": Decoder("Qwen3Config", {"num_key_value_heads": 8}),
    "qwen2-moe": Decoder("Qwen2MoeConfig", {}, {**MOE, "shared_expert_intermediate_size": 64}),
    "qwen3-moe": Decoder("Qwen3MoeConfig", {}, MOE),
    "qwen3-next": Decoder(
        "Qwen3NextConfig", {"layer_types": ["linear_attention", "full_attention"], "num_experts": 64},
        {**MOE, "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 32,
         "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    ),
    "mixtral": Decoder("MixtralConfig", {}, {"num_local_experts": 4}),
    "gemma2": Decoder("Gemma2Config"),
    "gemma3": Decoder("Gemma3TextConfig", {"layer_types": ["sliding_attention", "full_attention"]}),
    "cohere": Decoder("CohereConfig", {"num_key_value_heads": 8}),
    "cohere2": Decoder("Cohere2Config", {"num_key_value_heads": 8}),
    "phi3": Decoder("Phi3Config"),
    "gpt-oss": Decoder("GptOssConfig", {}, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": Decoder("Olmo2Config"),
    "glm4": Decoder("Glm4Config"),
    "glm4-moe": Decoder(
        "Glm4MoeConfig", {"first_k_dense_replace": 1},
        {"first_k_dense_replace": 1, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2},
    ),
    "falcon": Decoder("FalconConfig", {}, {"head_dim": None, "num_key_value_heads": None}),
    "deepseek-v3": Decoder("DeepseekV3Config", {"first_k_dense_replace": 1}, {**LATENT, "first_k_dense_replace": 1}),
    "deepseek-v32": Decoder(
        "DeepseekV32Config", {"first_k_dense_replace": 1},
        {**LATENT, "first_k_dense_replace": 1, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 16},
    ),
    "deepseek-v4": Decoder(
        "DeepseekV4Config", {"layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"]},
        {"layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"], "q_lora_rank": 32, "head_dim": 32,
         "num_key_value_heads": 1, "n_routed_experts": 8, "moe_intermediate_size": 32, "num_experts_per_tok": 2, "o_groups": 2,
         "o_lora_rank": 32, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 8, "sliding_window": 16},
        static=False,
    ),
}  # fmt: skip


class WithCache(nn.Module):
    """A language model with the cache that it reads and writes."""

    def __init__(self, model: nn.Module, cache: Any) -> None:
        super().__init__()
        self.model = model
        self.cache = cache
        self.argument = cache_argument(model)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the logits of the last token."""
        found = self.model(input_ids=tokens, position_ids=positions, logits_to_keep=1, **{self.argument: self.cache})
        logits: Tensor = found.logits
        return logits


def cache_argument(model: nn.Module) -> str:
    """Return the name of the cache among a model's arguments, which newer releases call another."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def build(decoder: Decoder, prompt: bool, tiny: bool) -> Made:
    """Return a model with its cache, and a prompt or one token behind one."""
    import transformers

    settings = {**TINY, **decoder.tiny} if tiny else {**FULL, **decoder.full}
    config = getattr(transformers, decoder.config)(**{name: value for name, value in settings.items() if value is not None})
    # The CPU can't count the tokens of each expert, as grouped products need it.
    experts = {"experts_implementation": "batched_mm"} if tiny else {}
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **experts)
    length = 24 if tiny else 512
    tokens = torch.randint(3, config.vocab_size, (1, length))
    positions = torch.arange(length)[None]
    if decoder.static:
        cache = transformers.StaticCache(config=config, max_cache_len=2 * length)
        for layer in cache.layers:
            initialize(layer, config, 0 if prompt else length)
    else:
        cache = transformers.DynamicCache(config=config)
        if not prompt:
            with torch.no_grad():
                model.eval()(input_ids=tokens, position_ids=positions, **{cache_argument(model): cache})
    if prompt:
        return WithCache(model, cache), (tokens, positions)
    return WithCache(model, cache), (tokens[:, :1], positions[:, -1:] + 1)


def initialize(layer: Any, config: Any, filled: int) -> None:
    """Give a layer of a static cache its tensors, with `filled` tokens in it."""
    heads = 1 if getattr(config, "multi_query", False) else config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = (size, size)
    if hasattr(config, "kv_lora_rank"):  # latent attention: one head, and what it keeps are latents and rotated keys
        heads, sizes = 1, (config.kv_lora_rank, config.qk_rope_head_dim)
    if hasattr(layer, "max_cache_len"):
        layer.lazy_initialization(*(torch.zeros(1, heads, 0, each, dtype=torch.bfloat16) for each in sizes))
        layer.cumulative_length.fill_(filled)
        if hasattr(layer, "cumulative_length_int"):  # by which a sliding window chooses what it does
            layer.cumulative_length_int = filled
    elif filled:  # linear attention: the last inputs of a convolution, and a matrix a head
        shape = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        channels = 2 * config.linear_num_key_heads * shape[1] + shape[0] * shape[2]
        past = torch.zeros(1, channels, config.linear_conv_kernel_dim, dtype=torch.bfloat16)
        layer.lazy_initialization(conv_states=past, recurrent_states=torch.zeros(1, *shape))
        layer.has_previous_state[0] = True


QUICK = ("llama-decode", "qwen2-moe-decode")
TOKENS = Dynamic(((0, 1), (1, 1)), (9, 31))  # of a prompt, beside the 24 of the tiny size
CASES = [
    *(
        Case(name, "transformers", partial(build, decoder, prompt), meta=True, quick=name in QUICK)
        for family, decoder in DECODERS.items()
        for name, prompt in ((f"{family}-prefill", True), (f"{family}-decode", False))
    ),
    Case(
        "deepseek-v32-prefill-dynamic-tokens", "transformers", partial(build, DECODERS["deepseek-v32"], True), meta=True,
        dynamic=TOKENS,
    ),
]  # fmt: skip
