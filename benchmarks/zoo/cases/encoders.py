"""Models of transformers without a cache of tokens: encoders, T5, state spaces, towers of two kinds of input, a detector."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Dynamic, Made, halves

TEXT: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
}  # fmt: skip
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Keyed(nn.Module):
    """A model that is called by the names of its arguments and returns its first result."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values: Tensor) -> Any:
        """Return the first of the model's results."""
        return self.model(**dict(zip(self.names, values, strict=True)), return_dict=False)[0]


def model_of(config: Any, kind: str = "AutoModel") -> nn.Module:
    """Return the model of a configuration."""
    import transformers

    model: nn.Module = getattr(transformers, kind).from_config(config, dtype=torch.bfloat16)
    return model


def tokens(tiny: bool, batch: int = 2) -> Tensor:
    """Return a batch of texts."""
    return torch.randint(3, 128, (batch, 24 if tiny else 256))


def text_encoder(config: str, own: dict[str, Any], tiny: bool) -> Made:
    """Return an encoder of texts, with a mask in which one text is shorter."""
    import transformers

    settings = {**IDS, **own, **(TEXT if tiny else {"num_hidden_layers": 2, "vocab_size": 32000})}
    ids = tokens(tiny)
    mask = torch.ones_like(ids)
    mask[1, -8:] = 0
    return Keyed(model_of(getattr(transformers, config)(**settings)), "input_ids", "attention_mask"), (ids, mask)


def t5(tiny: bool) -> Made:
    """Return T5, encoder and decoder in one call."""
    import transformers

    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, "vocab_size": 128} if tiny else {}
    config = transformers.T5Config(num_layers=2, num_decoder_layers=2, use_cache=False, **sizes)
    model = Keyed(model_of(config, "AutoModelForSeq2SeqLM"), "input_ids", "decoder_input_ids")
    return model, (tokens(tiny), tokens(tiny)[:, :8])


def state_space(config: str, own: dict[str, Any], tiny: bool) -> Made:
    """Return a model of state spaces, with a short text."""
    import transformers

    sizes = {"hidden_size": 64, "vocab_size": 128, **own} if tiny else {"vocab_size": 32000}
    settings = {**IDS, "num_hidden_layers": 2, "use_cache": False, **sizes}
    return Keyed(model_of(getattr(transformers, config)(**settings)), "input_ids"), (tokens(tiny, 1)[:, :32],)


def clip(tiny: bool) -> Made:
    """Return CLIP: two towers that do not meet before their last product."""
    import transformers

    small = {**TEXT, "projection_dim": 32}
    image = {**small, "image_size": 32, "patch_size": 8}
    text, vision = ({**small, **IDS}, image) if tiny else ({"num_hidden_layers": 2, **IDS}, {"num_hidden_layers": 2})
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    side = 32 if tiny else 224
    inputs = torch.randint(3, 128, (4, 16)), halves(4, 3, side, side)
    return Keyed(model_of(config), "input_ids", "pixel_values"), inputs


def whisper(tiny: bool) -> Made:
    """Return Whisper's encoder and decoder."""
    import transformers

    sizes = {"d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "vocab_size": 128, "max_source_positions": 50} if tiny else {}  # fmt: skip
    config = transformers.WhisperConfig(**{**IDS, "encoder_layers": 2, "decoder_layers": 2, "use_cache": False, **sizes})
    frames = 100 if tiny else 3000
    inputs = halves(1, config.num_mel_bins, frames), torch.randint(3, 100, (1, 8))
    return Keyed(model_of(config), "input_features", "decoder_input_ids"), inputs


def wav2vec2(tiny: bool) -> Made:
    """Return Wav2Vec2: convolutions over samples, then an encoder."""
    import transformers

    sizes = {**TEXT, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4} if tiny else {}
    config = transformers.Wav2Vec2Config(**{**IDS, "num_hidden_layers": 2, "apply_spec_augment": False, **sizes})
    return Keyed(model_of(config), "input_values"), (halves(1, 4000 if tiny else 32000),)


def detr(tiny: bool) -> Made:
    """Return RT-DETR's hybrid encoder and decoder, behind its own small backbone."""
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16 if tiny else 64, hidden_sizes=[16, 32, 64, 96] if tiny else [256, 512, 1024, 2048],
        depths=[1, 1, 1, 1] if tiny else [2, 2, 2, 2], out_features=["stage2", "stage3", "stage4"], layer_type="bottleneck",
    )  # fmt: skip
    sizes = {"encoder_hidden_dim": 32, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 20,
             "encoder_in_channels": [32, 64, 96], "decoder_in_channels": [32, 32, 32], "encoder_attention_heads": 4,
             "decoder_attention_heads": 4} if tiny else {}  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, decoder_layers=2, eval_size=None, anchor_image_size=None, use_timm_backbone=False,
        num_labels=8, **sizes,
    )  # fmt: skip
    side = 64 if tiny else 320
    return Keyed(model_of(config, "AutoModelForObjectDetection"), "pixel_values"), (halves(1, 3, side, side),)


TEXT_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "modernbert": ("ModernBertConfig", {"cls_token_id": 1, "sep_token_id": 2}),
    "deberta-v2": ("DebertaV2Config", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32}),
    "roformer": ("RoFormerConfig", {}),
    "distilbert": ("DistilBertConfig", {"n_layers": 2, "dim": 768}),
}
OTHERS: dict[str, Callable[[bool], Made]] = {
    "t5": t5,
    "mamba": partial(state_space, "MambaConfig", {"state_size": 8}),
    # Of sums along longer chunks Inductor (torch 2.15.0) generates no code if there are as few as here: "Unexpected tiling".
    "mamba2": partial(
        state_space, "Mamba2Config", {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 16}
    ),
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "rt-detr": detr,
}
LENGTHS = (7, 40)  # beside the 24 of a tiny text
CASES = [
    *(Case(name, "transformers", partial(text_encoder, *own), quick=name == "bert") for name, own in TEXT_ENCODERS.items()),
    *(Case(name, "transformers", build, quick=name == "clip") for name, build in OTHERS.items()),
    Case(
        "bert-dynamic-batch",
        "transformers",
        partial(text_encoder, *TEXT_ENCODERS["bert"]),
        dynamic=Dynamic(((0, 0), (1, 0)), (3, 5)),
    ),
    Case(
        "bert-dynamic-length",
        "transformers",
        partial(text_encoder, *TEXT_ENCODERS["bert"]),
        dynamic=Dynamic(((0, 1), (1, 1)), LENGTHS),
    ),
]
