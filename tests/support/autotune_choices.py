"""Choose for max-autotune, because offline nothing can be timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config, select_algorithm

from graphstreams.pipeline import explain
from graphstreams.pipeline.compilation import GraphCompilation
from tests.support.sample_modules import TORCH_2_14


def choose(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    """Let max-autotune choose what has `chosen` in its name for every product, as if that had been timed to be the fastest."""

    def timed(self: Any, name: str, nodes: Any, layout: Any, inputs: Any, key: str, choices: Sequence[Any], *_: Any, **__: Any):
        return {choice: 1.0 if chosen in choice.name else 2.0 for choice in choices}

    run = explain.run_stages
    settings: dict[str, Any] = {"max_autotune_gemm": True, "max_autotune_gemm_backends": "TRITON,ATEN"}
    timing = "benchmark_epilogue_fusion" if TORCH_2_14 else "benchmark_template_fusion"
    settings[timing] = False

    def with_autotuning(*args: Any, **kwargs: Any) -> GraphCompilation:
        # `offline` switches it off, for nothing can be timed; here nothing is.
        with config.patch(settings):
            return run(*args, **kwargs)

    monkeypatch.setattr(select_algorithm.AlgorithmSelectorCache, "do_autotuning", timed)
    monkeypatch.setattr(select_algorithm.AlgorithmSelectorCache, "make_precompile_fn", lambda *_, **__: dict)
    monkeypatch.setattr(explain, "run_stages", with_autotuning)


class LongSums(nn.Module):
    """Two products of few rows and columns, which max-autotune may split along K."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(16384, 32, bias=False, dtype=torch.bfloat16) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        return self.a(x).relu(), self.b(x).sin()
