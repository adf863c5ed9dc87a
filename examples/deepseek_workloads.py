"""The workloads of the benchmarks: DeepSeek V3.2's block before the attention and its layer at decode, and layers of V4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import deepseek_v4 as v4
import torch
from deepseek_pre_attention import PreAttention, pre_attention_inputs
from deepseek_v32 import Config, build, example_inputs

DEVICE = "cuda"


@dataclass(frozen=True)
class Workload:
    """A module of V3.2 and the inputs it is timed on: the block before the attention, or the whole layer."""

    config: Config
    whole: bool

    @property
    def title(self) -> str:
        """Return the name that tables show."""
        tokens = f"{self.config.tokens} token" + "s" * (self.config.tokens > 1)
        slots = f", {self.config.context:,} slots" * (self.config.context != Config.context)
        slots += ", FP8" * self.config.fp8
        if self.whole:
            return f"layer, TP {self.config.tp}, {tokens}{slots}"
        return f"block before the attention, {self.config.heads} heads, {tokens}{slots}"

    def make(self) -> tuple[torch.nn.Module, Callable[[int], Sequence[Any]]]:
        """Return the module with random weights, and what makes fresh random inputs from a seed."""
        layer = build(self.config, DEVICE)
        inputs = example_inputs if self.whole else pre_attention_inputs
        return layer if self.whole else PreAttention(layer), lambda seed: list(inputs(self.config, DEVICE, seed))


@dataclass(frozen=True)
class V4Workload:
    """A layer of V4 and the inputs it is timed on, at decode or prefill."""

    model: str
    config: v4.Config

    @property
    def title(self) -> str:
        """Return the name that tables show."""
        tokens = f"{self.config.tokens:,} token" + "s" * (self.config.tokens > 1)
        size = f"prefill of {tokens}" if self.config.prefill else tokens
        return f"V4-{self.model} {self.config.kind.upper()} layer, TP {self.config.tp}, {size}"

    def make(self) -> tuple[torch.nn.Module, Callable[[int], Sequence[Any]]]:
        """Return the module with random weights, and what makes fresh random inputs from a seed."""
        return v4.build(self.config, DEVICE), lambda seed: list(v4.example_inputs(self.config, DEVICE, seed))


WORKLOADS: dict[str, Workload | V4Workload] = {
    "block-16-1": Workload(Config(heads=16, tokens=1), False),
    "block-128-1": Workload(Config(heads=128, tokens=1), False),
    "block-16-64": Workload(Config(heads=16, tokens=64), False),
    "block-128-64": Workload(Config(heads=128, tokens=64), False),
    "block-16-64-2048": Workload(Config(heads=16, tokens=64, context=2048), False),
    "block-128-64-2048": Workload(Config(heads=128, tokens=64, context=2048), False),
    "layer-tp8-1": Workload(Config(tp=8, tokens=1), True),
    "layer-tp1-1": Workload(Config(tp=1, tokens=1), True),
    "layer-tp8-16": Workload(Config(tp=8, tokens=16), True),
    "layer-tp8-32": Workload(Config(tp=8, tokens=32), True),
    "layer-tp8-64": Workload(Config(tp=8, tokens=64), True),
    "layer-tp8-1-65536": Workload(Config(tp=8, tokens=1, context=65_536), True),
    "layer-tp8-8-65536": Workload(Config(tp=8, tokens=8, context=65_536), True),
    "block-16-1-fp8": Workload(Config(heads=16, tokens=1, fp8=True), False),
    "block-128-1-fp8": Workload(Config(heads=128, tokens=1, fp8=True), False),
    "layer-tp8-1-fp8": Workload(Config(tp=8, tokens=1, fp8=True), True),
    "layer-tp8-32-fp8": Workload(Config(tp=8, tokens=32, fp8=True), True),
    "v4-flash-csa-1": V4Workload("Flash", v4.Config.flash(tp=8)),
    "v4-flash-hca-1": V4Workload("Flash", v4.Config.flash(tp=8, kind="hca")),
    "v4-pro-csa-1": V4Workload("Pro", v4.Config.pro(tp=8)),
    "v4-pro-csa-32": V4Workload("Pro", v4.Config.pro(tp=8, tokens=32)),
    "v4-flash-csa-prefill-1024": V4Workload("Flash", v4.Config.flash(tp=8, tokens=1024, prefill=True)),
    "v4-flash-csa-prefill-4096": V4Workload("Flash", v4.Config.flash(tp=8, tokens=4096, prefill=True)),
}
