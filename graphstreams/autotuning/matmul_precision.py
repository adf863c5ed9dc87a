"""Reads and sets how exact torch allows matrix products to be, which decides which kernels run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

REDUCTIONS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


def precisions() -> dict[str, Any]:
    """Return what this process allows, as plain data for `set_precisions` in another. Settings this torch lacks are missing."""
    matmul = torch.backends.cuda.matmul
    found: dict[str, Any] = {}
    with contextlib.suppress(RuntimeError):  # if precisions were set by torch's newer attributes
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    for name in ("fp32_precision", "allow_fp16_accumulation"):
        if hasattr(matmul, name):
            found[name] = getattr(matmul, name)
    for name in REDUCTIONS:
        allowed = getattr(matmul, name)
        split = getattr(matmul, f"{name}_split_k", None)
        found[name] = allowed if split is None else (allowed, split)
    return found


def set_precisions(found: Mapping[str, Any]) -> None:
    """Allow in this process what `precisions` returned in another."""
    rest = dict(found)
    if "float32_matmul_precision" in rest:
        # First, because it sets `fp32_precision` too, and not always to the value wanted.
        torch.set_float32_matmul_precision(rest.pop("float32_matmul_precision"))
    for name, value in rest.items():
        setattr(torch.backends.cuda.matmul, name, value)
