"""Generate with tiny models of six architectures on the CPU, and plan their steps without a GPU. Needs transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import graphstreams
from benchmarks.engines.decode_step import decode_call
from benchmarks.engines.generate_models import SIX, build, prompt_of
from benchmarks.engines.generate_side import sharing
from graphstreams.pipeline.explain import capture, largest
from graphstreams.runtime import verdicts

TOKENS = 10


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdicts, "_said", [])
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


def tokens_of(model: Any, **how: Any) -> list[int]:
    prompt = prompt_of(model.config, 8, 0, "cpu")
    found = model.generate(**prompt, do_sample=False, max_new_tokens=TOKENS, cache_implementation="static", **how)
    return [int(token) for token in found[0, -TOKENS:]]


@pytest.mark.parametrize("name", SIX)
def test_generate_asks_the_backend_and_has_the_same_tokens(name: str) -> None:
    from transformers import CompileConfig

    model = build(name, 2, "cpu", tiny=True)
    mode = "default" if name == "cohere_7b" else "reduce-overhead"
    config = CompileConfig(backend="graphstreams", mode=mode)
    config._compile_all_devices = True
    assert tokens_of(sharing(model), compile_config=config) == tokens_of(model, disable_compile=True)
    said = graphstreams.reports()  # of Gemma 3 Dynamo compiles two graphs
    assert said and {verdict.module for verdict in said} == {type(model).__name__}
    assert all(verdict.reason.startswith("it has no CUDA tensors") for verdict in said)


@pytest.mark.parametrize("name", SIX)
def test_the_step_is_planned_and_proved(name: str) -> None:
    model = build(name, 2, "cpu", tiny=True)
    (compilation,) = capture(model, decode_call(model, prompt_of(model.config, 8, 0, "cpu"), TOKENS), "h200", {"min_gain": 0.0})
    report = largest([compilation.report])
    assert (report.verdict, report.reason) == ("clean", "")
    kernels = report.kernels.kernels if report.kernels else ()
    assert kernels and not any(kernel.exclusive for kernel in kernels)  # nothing keeps its place against all others
