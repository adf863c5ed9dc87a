"""Image models of timm, by their own names; a tiny one sees smaller images through fewer blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.zoo.case import Case, Made, halves, in_halves

# name in timm -> side of the image, and the arguments and the side that make it tiny
MODELS: dict[str, tuple[int, dict[str, Any], int]] = {
    "resnet18": (224, {}, 32),
    "resnext50_32x4d": (224, {"layers": (1, 1, 1, 1)}, 32),
    "convnext_tiny": (224, {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 96)}, 64),
    "efficientnet_b0": (224, {}, 64),
    "mobilenetv3_large_100": (224, {}, 64),
    "regnety_016": (224, {}, 32),
    "vit_small_patch16_224": (224, {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64}, 64),
    "vit_base_patch16_siglip_224": (224, {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64}, 64),
    "vit_small_plus_patch16_dinov3": (224, {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64}, 64),
    "swin_tiny_patch4_window7_224": (224, {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}, 224),
    "mixer_s16_224": (224, {"img_size": 64}, 64),
    "coat_lite_tiny": (224, {"img_size": 64}, 64),
    "crossvit_9_240": (240, {}, 240),
    "inception_v4": (299, {}, 96),
    "hrnet_w18_small": (224, {}, 64),
    "dpn68": (224, {}, 64),
    "xception41": (299, {}, 64),
    "levit_128s": (224, {}, 224),
    "skresnet18": (224, {}, 64),
}
QUICK = ("resnet18", "mixer_s16_224")


def build(name: str, tiny: bool) -> Made:
    """Return a model and a batch of images."""
    import timm

    full, own, side = MODELS[name]
    model = timm.create_model(name, pretrained=False, num_classes=10 if tiny else 1000, **(own if tiny else {}))
    side = side if tiny else full
    return in_halves(model), (halves(1 if tiny else 8, 3, side, side),)


CASES = [Case(f"timm-{name}", "timm", partial(build, name), quick=name in QUICK) for name in MODELS]
