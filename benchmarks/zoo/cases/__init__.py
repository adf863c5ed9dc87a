"""Collect the cases of all libraries. To add one, add a line to its library's file."""

from __future__ import annotations

from benchmarks.zoo.case import Case
from benchmarks.zoo.cases import (
    decoders,
    deepctr_models,
    diffusers_models,
    dlrm,
    encoders,
    recurrent,
    timm_models,
    torchaudio_models,
    torchvision_models,
    vit_pytorch_models,
)

_FILES = (
    decoders, encoders, timm_models, torchvision_models, diffusers_models, deepctr_models, dlrm, torchaudio_models,
    recurrent, vit_pytorch_models,
)  # fmt: skip
CASES: dict[str, Case] = {case.name: case for file in _FILES for case in file.CASES}
