"""The decoder layers that `deepseek_model.py` plans and measures: per-rank shapes of TP 8, one case a name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import deepseek_v32 as v32
import torch
from deepseek_decoder import Config
from deepseek_experts import ExpertsConfig

WHOLE = {"V3.2": 61, "V4-Flash": 43}  # layers of the whole models


@dataclass(frozen=True)
class Case:
    """A decoder, called once for a token, or in a loop in which each token's result is the next one's input."""

    config: Config
    loop: bool = False

    @property
    def model(self) -> str:
        """Return the name of the model whose layers these are."""
        return "V3.2" if isinstance(self.config.first, v32.Config) else "V4-Flash"

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return len(self.config.attention)

    @property
    def title(self) -> str:
        """Return the name that tables show."""
        first = self.config.first
        kinds = "" if isinstance(first, v32.Config) else " " + "+".join(each.kind.upper() for each in self.config.attention)  # type: ignore[union-attr]
        parts = [f"{self.model}{kinds}", f"{self.layers} layer" + "s" * (self.layers > 1)]
        parts += [f"{self.config.dense_layers} of them dense"] * (self.config.dense_layers > 0)
        dtype = {torch.bfloat16: "bf16"}.get(first.dtype, str(first.dtype).removeprefix("torch."))
        parts += [f"TP {first.tp} shapes", f"[{first.tokens}]", "FP8" if getattr(first, "fp8", False) else dtype]
        experts = self.config.experts
        parts += [f"{experts.experts} experts"] * (experts.experts != ExpertsConfig.experts)
        parts += ["batched experts"] * (experts.products == "batched")
        return ", ".join([*parts, *["decode loop"] * self.loop])


def looped(config: Config) -> Case:
    """Return the case of a decode loop, whose decoder ends with a norm."""
    return Case(replace(config, head=True), loop=True)


CASES = {
    "v32-1": Case(Config.v32()),
    "v32-32": Case(Config.v32(tokens=32)),
    "v32-1-fp8": Case(Config.v32(fp8=True)),
    "v4-flash-csa-1": Case(Config.v4_flash()),
    "v32-loop-4": looped(Config.v32(layers=4)),
    "v32-32-fp8": Case(Config.v32(tokens=32, fp8=True)),
    "v32-dense-1": Case(replace(Config.v32(), dense_layers=1)),
    "v32-loop-4-fp8": looped(Config.v32(layers=4, fp8=True)),
    "v4-flash-hca-1": Case(Config.v4_flash(("hca",))),
    "v4-flash-loop-4": looped(Config.v4_flash(("csa", "hca", "csa", "hca"))),
}
DEFAULT = list(CASES)[:5]
