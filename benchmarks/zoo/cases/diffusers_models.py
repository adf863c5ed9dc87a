"""Models of diffusers for one step of denoising, and a decoder of latents; two blocks of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Dynamic, Made, halves, in_halves


class Step(nn.Module):
    """A model that is called by the names of its arguments, with some that are no tensors."""

    def __init__(self, model: nn.Module, *names: str, **fixed: Any) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.fixed = fixed

    def forward(self, *values: Tensor) -> Any:
        """Return the first of the model's results."""
        return self.model(**dict(zip(self.names, values, strict=True)), **self.fixed, return_dict=False)[0]


def sd3(tiny: bool) -> Made:
    """Return Stable Diffusion 3's transformer."""
    from diffusers import SD3Transformer2DModel

    heads, size = (4, 16) if tiny else (24, 64)
    text, pooled, side = (32, 32, 8) if tiny else (4096, 2048, 64)
    model = SD3Transformer2DModel(
        sample_size=side, num_layers=2, num_attention_heads=heads, attention_head_dim=size, joint_attention_dim=text,
        caption_projection_dim=heads * size, pooled_projection_dim=pooled, qk_norm="rms_norm", pos_embed_max_size=96,
        dual_attention_layers=(0,),
    )  # fmt: skip
    inputs = halves(1, 16, side, side), halves(1, 12 if tiny else 154, text), halves(1, pooled), torch.tensor([500])
    return Step(in_halves(model), "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"), inputs


def flux(tiny: bool) -> Made:
    """Return Flux's transformer: blocks of two streams of tokens, then of one."""
    from diffusers import FluxTransformer2DModel

    heads, size, axes = (4, 16, (4, 6, 6)) if tiny else (24, 128, (16, 56, 56))
    text, pooled, count, words = (32, 32, 16, 8) if tiny else (4096, 768, 1024, 256)
    model = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=heads, attention_head_dim=size, joint_attention_dim=text,
        pooled_projection_dim=pooled, axes_dims_rope=axes, guidance_embeds=True,
    )  # fmt: skip
    names = "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "img_ids", "txt_ids", "guidance"
    one = torch.ones(1, dtype=torch.bfloat16)
    inputs = (
        halves(1, count, 64),
        halves(1, words, text),
        halves(1, pooled),
        one,
        torch.zeros(count, 3),
        torch.zeros(words, 3),
        one.clone(),
    )
    return Step(in_halves(model), *names), inputs


def qwen_image(tiny: bool) -> Made:
    """Return Qwen-Image's transformer."""
    from diffusers import QwenImageTransformer2DModel

    heads, size, axes = (4, 16, (4, 6, 6)) if tiny else (24, 128, (16, 56, 56))
    text, side, words = (32, 4, 8) if tiny else (3584, 32, 128)
    model = QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=heads, attention_head_dim=size, joint_attention_dim=text, axes_dims_rope=axes
    )
    one = torch.ones(1, dtype=torch.bfloat16)
    inputs = halves(1, side * side, 64), halves(1, words, text), torch.ones(1, words, dtype=torch.int64), one
    names = "hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep"
    return Step(in_halves(model), *names, img_shapes=[[(1, side, side)]]), inputs


def pixart(tiny: bool) -> Made:
    """Return PixArt's transformer."""
    from diffusers import PixArtTransformer2DModel

    heads, size, side, text = (4, 16, 8, 32) if tiny else (16, 72, 64, 4096)
    model = PixArtTransformer2DModel(
        num_layers=2, num_attention_heads=heads, attention_head_dim=size, cross_attention_dim=heads * size, sample_size=side,
        caption_channels=text, use_additional_conditions=False,
    )  # fmt: skip
    inputs = halves(2, 4, side, side), halves(2, 8 if tiny else 120, text), torch.tensor([500, 500])
    fixed = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    return Step(in_halves(model), "hidden_states", "encoder_hidden_states", "timestep", **fixed), inputs


def wan(tiny: bool) -> Made:
    """Return Wan's transformer for videos."""
    from diffusers import WanTransformer3DModel

    heads, size, text, side = (4, 16, 32, 8) if tiny else (12, 128, 4096, 32)
    model = WanTransformer3DModel(
        num_layers=2, num_attention_heads=heads, attention_head_dim=size, text_dim=text, ffn_dim=96 if tiny else 8960,
        freq_dim=32 if tiny else 256,
    )  # fmt: skip
    inputs = halves(1, 16, 2, side, side), torch.tensor([500]), halves(1, 8 if tiny else 128, text)
    return Step(in_halves(model), "hidden_states", "timestep", "encoder_hidden_states"), inputs


def unet(tiny: bool) -> Made:
    """Return a UNet without conditions, of two levels."""
    from diffusers import UNet2DModel

    channels = (32, 64) if tiny else (224, 448)
    model = UNet2DModel(
        sample_size=32, block_out_channels=channels, layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    side = 16 if tiny else 64
    return Step(in_halves(model), "sample", "timestep"), (halves(1, 3, side, side), torch.tensor(10))


def conditioned_unet(tiny: bool) -> Made:
    """Return Stable Diffusion's UNet, of two levels, with a text."""
    from diffusers import UNet2DConditionModel

    channels = (32, 64) if tiny else (320, 640)
    text = 32 if tiny else 768
    model = UNet2DConditionModel(
        block_out_channels=channels, layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=text,
    )  # fmt: skip
    side = 8 if tiny else 64
    inputs = halves(2, 4, side, side), torch.tensor(10), halves(2, 8 if tiny else 77, text)
    return Step(in_halves(model), "sample", "timestep", "encoder_hidden_states"), inputs


def vae_decoder(tiny: bool) -> Made:
    """Return the decoder of Stable Diffusion's latents, of two levels."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 64) if tiny else (128, 256), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    side = 8 if tiny else 64
    return Decoding(in_halves(model)), (halves(1, 4, side, side),)


class Decoding(nn.Module):
    """The half of an autoencoder that makes images."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        """Return images."""
        images: Tensor = self.model.decode(latents, return_dict=False)[0]
        return images


BUILDS: dict[str, Callable[[bool], Made]] = {
    "sd3": sd3, "flux": flux, "qwen-image": qwen_image, "pixart": pixart, "wan": wan, "unet2d": unet,
    "unet2d-condition": conditioned_unet, "vae-decoder": vae_decoder,
}  # fmt: skip
CASES = [
    *(Case(f"diffusers-{name}", "diffusers", build, quick=name == "pixart") for name, build in BUILDS.items()),
    # The tokens of the image, and their places.
    Case("diffusers-flux-dynamic-tokens", "diffusers", flux, dynamic=Dynamic(((0, 1), (4, 0)), (6, 35))),
]
