"""Models of diffusers with random weights, of real widths and few layers, and one step of denoising with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Denoiser:
    """Models that make one step together, what they are called with, and which of their blocks are compiled.

    `blocks` are classes by name. None takes those that the library names (`_repeated_blocks`).
    """

    models: Mapping[str, nn.Module]
    inputs: Callable[[int], Values]  # batch -> what a step takes, random; "sample" is what is denoised
    step: Callable[..., Tensor]  # the models by name, and the values by name
    blocks: Mapping[str, tuple[str, ...] | None]  # by model

    def compile_blocks(self, **how: Any) -> None:
        """Compile the blocks of each model, as `torch.compile` is told by `how`."""
        for name, model in self.models.items():
            chosen = self.blocks[name]
            if chosen is not None:
                model._repeated_blocks = list(chosen)  # type: ignore[assignment]
            model.compile_repeated_blocks(**how)  # type: ignore[operator]

    def compiled_blocks(self, name: str) -> list[nn.Module]:
        """Return the blocks of a model that `compile_blocks` compiles."""
        model: Any = self.models[name]
        chosen = self.blocks[name] or model._repeated_blocks
        return [block for block in model.modules() if type(block).__name__ in chosen]

    def __call__(self, **values: Tensor) -> Tensor:
        """Return what the models predict of the sample's noise, with its shape."""
        return self.step(**self.models, **values)


def _halves(*shape: int) -> Tensor:
    return torch.randn(*shape).to(torch.bfloat16)


def _ready(model: nn.Module, device: str) -> nn.Module:
    return model.to(device, torch.bfloat16).eval().requires_grad_(False)


def sd3(device: str, tiny: bool) -> Denoiser:
    """Return the transformer of Stable Diffusion 3 medium with three of its 24 layers, for an image of 512 x 512."""
    from diffusers import SD3Transformer2DModel

    heads, size = (4, 16) if tiny else (24, 64)
    text, pooled, side = (32, 32, 8) if tiny else (4096, 2048, 64)
    with torch.device(device):
        model = SD3Transformer2DModel(
            sample_size=side, num_layers=3, num_attention_heads=heads, attention_head_dim=size, joint_attention_dim=text,
            caption_projection_dim=heads * size, pooled_projection_dim=pooled, pos_embed_max_size=96 if tiny else 192,
        )  # fmt: skip

    def inputs(batch: int) -> Values:
        return {"sample": _halves(batch, 16, side, side), "text": _halves(batch, 12 if tiny else 154, text),
                "pooled": _halves(batch, pooled), "timestep": torch.full((batch,), 500.0)}  # fmt: skip

    def step(transformer: nn.Module, sample: Tensor, text: Tensor, pooled: Tensor, timestep: Tensor) -> Tensor:
        found: Tensor = transformer(
            hidden_states=sample, encoder_hidden_states=text, pooled_projections=pooled, timestep=timestep, return_dict=False
        )[0]
        return found

    # The library names no blocks of this model.
    return Denoiser({"transformer": _ready(model, device)}, inputs, step, {"transformer": ("JointTransformerBlock",)})


def flux(device: str, tiny: bool) -> Denoiser:
    """Return Flux's transformer with 2 of its 19 blocks of two streams and 4 of its 38 of one, for an image of 512 x 512."""
    from diffusers import FluxTransformer2DModel

    heads, size, axes = (4, 16, (4, 6, 6)) if tiny else (24, 128, (16, 56, 56))
    text, pooled, count, words = (32, 32, 16, 8) if tiny else (4096, 768, 1024, 256)
    with torch.device(device):
        model = FluxTransformer2DModel(
            num_layers=2, num_single_layers=4, num_attention_heads=heads, attention_head_dim=size, joint_attention_dim=text,
            pooled_projection_dim=pooled, axes_dims_rope=axes, guidance_embeds=True,
        )  # fmt: skip

    def inputs(batch: int) -> Values:
        return {"sample": _halves(batch, count, 64), "text": _halves(batch, words, text), "pooled": _halves(batch, pooled),
                "timestep": torch.full((batch,), 0.5), "guidance": torch.full((batch,), 3.5),
                "img_ids": torch.zeros(count, 3), "txt_ids": torch.zeros(words, 3)}  # fmt: skip

    def step(transformer: nn.Module, sample: Tensor, text: Tensor, pooled: Tensor, **others: Tensor) -> Tensor:
        found: Tensor = transformer(
            hidden_states=sample, encoder_hidden_states=text, pooled_projections=pooled, return_dict=False, **others
        )[0]
        return found

    return Denoiser({"transformer": _ready(model, device)}, inputs, step, {"transformer": None})


def controlnet(device: str, tiny: bool) -> Denoiser:
    """Return Stable Diffusion 1.5's UNet with a ControlNet, three levels of one layer each, for an image of 512 x 512."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    text, side = (32, 4) if tiny else (768, 64)
    shape = {
        "block_out_channels": (32, 64) if tiny else (320, 640, 1280),
        "layers_per_block": 1,
        "cross_attention_dim": text,
        "attention_head_dim": 8,
    }
    down = ("CrossAttnDownBlock2D",) * (1 if tiny else 2) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (1 if tiny else 2)
    with torch.device(device):
        unet = UNet2DConditionModel(down_block_types=down, up_block_types=up, **shape)
        control = ControlNetModel(down_block_types=down, **shape)

    def inputs(batch: int) -> Values:
        return {"sample": _halves(batch, 4, side, side), "text": _halves(batch, 8 if tiny else 77, text),
                "image": _halves(batch, 3, 8 * side, 8 * side), "timestep": torch.full((batch,), 500.0)}  # fmt: skip

    def step(unet: nn.Module, control: nn.Module, sample: Tensor, text: Tensor, image: Tensor, timestep: Tensor) -> Tensor:
        given = {"timestep": timestep, "encoder_hidden_states": text, "return_dict": False}
        downs, mid = control(sample, controlnet_cond=image, **given)
        found: Tensor = unet(sample, down_block_additional_residuals=downs, mid_block_additional_residual=mid, **given)[0]
        return found

    models = {"unet": _ready(unet, device), "control": _ready(control, device)}
    return Denoiser(models, inputs, step, {"unet": None, "control": ("BasicTransformerBlock",)})


BUILDS: dict[str, Callable[[str, bool], Denoiser]] = {"sd3": sd3, "flux": flux, "controlnet": controlnet}


def build(name: str, device: str, tiny: bool) -> Denoiser:
    """Return a denoiser; the same weights at each call."""
    torch.manual_seed(0)
    return BUILDS[name](device, tiny)
