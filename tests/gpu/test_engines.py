"""Check on a GPU that code which names no backend, or names it in transformers, runs on streams with the right results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.benchmark.variants import CompiledVariant
from graphstreams.runtime import verdicts

pytestmark = pytest.mark.gpu


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.arms = nn.ModuleList(nn.Linear(4096, 512) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [arm(x).softmax(-1) for arm in self.arms]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdicts, "_said", [])
    monkeypatch.setenv("GRAPHSTREAMS_MIN_GAIN", "0.0")
    monkeypatch.setenv("GRAPHSTREAMS_COSTS", "roofline")
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch.compiler.set_default_backend(None)


@pytest.mark.parametrize("mode", [None, "max-autotune-no-cudagraphs"])
def test_a_method_that_is_compiled_by_default_runs_on_streams_in_a_graph_captured_by_hand(mode: str | None) -> None:
    torch.compiler.set_default_backend("graphstreams")
    model = Branches().to("cuda", torch.bfloat16).requires_grad_(False)
    compiled = torch.compile(torch.no_grad()(model.forward), mode=mode, dynamic=False)
    x = torch.randn(1, 4096, device="cuda", dtype=torch.bfloat16)
    variant = CompiledVariant(compiled, [x])
    other = torch.randn_like(x)
    torch.testing.assert_close(variant.results([other])[:4], model(other))
    (verdict,) = graphstreams.reports("Branches")
    assert verdict.verdict == "clean" or mode is not None, verdict  # a tuned product may be none that can be predicted


def test_generate_runs_on_streams_with_plain_inductors_tokens(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from benchmarks.engines.generate_models import build, prompt_of
    from benchmarks.engines.generate_side import Clock, Run, Side, compile_config, sharing, text_of
    from benchmarks.engines.generate_table import OURS, PLAIN

    run = Run(tokens=24, deterministic=True)
    model = build("cohere_7b", 2, "cuda", tiny=True)  # of which all launches are the serial code's
    prompt = prompt_of(model.config, 8, 0, "cuda")
    texts = []
    for backend in (PLAIN, OURS):
        config = compile_config(backend, "reduce-overhead", run)
        side = Side(backend, "reduce-overhead", sharing(model), config, tmp_path)
        texts.append([text_of(side, prompt, run.tokens, Clock()) for _ in range(2)])
    assert texts[0] == texts[1]
    assert [verdict.verdict for verdict in graphstreams.reports(type(model).__name__)] == ["clean"]
