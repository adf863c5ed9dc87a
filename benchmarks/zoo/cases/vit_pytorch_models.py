"""Image models of vit-pytorch that look at an image in several ways at once."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.zoo.case import Case, Made, halves, in_halves


def made(file: str, kind: str, side: int, **settings: Any) -> Made:
    """Return a model of one of the library's files, and an image of `side` pixels."""
    model = getattr(import_module(f"vit_pytorch.{file}"), kind)(num_classes=10, **settings)
    return in_halves(model), (halves(2, 3, side, side),)


def parallel_vit(tiny: bool) -> Made:
    """Return a ViT with parallel branches of attention and of the feed-forward layer."""
    size = 32 if tiny else 768
    return made("parallel_vit", "ViT", 64, image_size=64, patch_size=8, dim=size, depth=2, heads=4, mlp_dim=2 * size,
                num_parallel_branches=2)  # fmt: skip


def cross_vit(tiny: bool) -> Made:
    """Return a CrossViT: two encoders of patches of two sizes."""
    small, large = (32, 48) if tiny else (192, 384)
    return made("cross_vit", "CrossViT", 64, image_size=64, sm_dim=small, lg_dim=large, sm_patch_size=8, lg_patch_size=16,
                depth=1, sm_enc_depth=1, sm_enc_heads=2, sm_enc_mlp_dim=2 * small, lg_enc_depth=1, lg_enc_heads=2,
                lg_enc_mlp_dim=2 * large, cross_attn_depth=1, cross_attn_heads=2)  # fmt: skip


def cct(tiny: bool) -> Made:
    """Return a compact transformer on convolutions."""
    return made("cct", "CCT", 64, img_size=64, embedding_dim=32 if tiny else 384, n_conv_layers=2, kernel_size=3, num_layers=2,
                num_heads=4, mlp_ratio=2)  # fmt: skip


def max_vit(tiny: bool) -> Made:
    """Return a MaxViT: convolutions, then attention in blocks and over a grid."""
    return made("max_vit", "MaxViT", 56, dim=16 if tiny else 64, depth=(1, 1), dim_head=16, window_size=7, dropout=0.0)


BUILDS: dict[str, Callable[[bool], Made]] = {
    "parallel-vit": parallel_vit, "cross-vit": cross_vit, "cct": cct, "max-vit": max_vit,
}  # fmt: skip
CASES = [Case(f"vit-pytorch-{name}", "vit-pytorch", build, quick=name == "parallel-vit") for name, build in BUILDS.items()]
