"""Check what the benchmark of vLLM tells each side, and what it makes of the answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.engines import vllm_generate, vllm_models, vllm_worker
from benchmarks.engines.vllm_models import AGAIN, BY_HAND, MODELS, MODES, OURS, SERIAL, compilation_of, config_of


@pytest.mark.parametrize("name", MODELS)
def test_a_configuration_has_the_layers_that_are_asked_for(name: str) -> None:
    config = config_of(MODELS[name], 3)
    assert config.get("num_hidden_layers", config.get("n_layer")) == 3
    assert all(len(value) == 3 for key, value in config.items() if key.endswith("layer_types"))
    assert config["architectures"] and config["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("mode", MODES)
def test_only_our_side_has_the_pass(mode: str) -> None:
    plain, ours = (compilation_of(mode, side, [1, 8], [16], [8]) for side in (SERIAL, OURS))
    assert ours == {**plain, "inductor_passes": vllm_models.PASS}
    assert plain["compile_ranges_endpoints"] == [16] and plain["compile_sizes"] == [8]


def test_vllms_own_streams_are_off_but_by_hand() -> None:
    sides = MODELS["cohere2_moe"].sides
    given = {name: side[vllm_models.DUAL_STREAM] for name, side in sides.items()}
    assert given == {SERIAL: "0", OURS: "0", AGAIN: "0", BY_HAND: "256"}


def side(name: str, texts: list[list[int]], **samples: list[float]) -> Any:
    return SimpleNamespace(name=name, mode="FULL", texts=texts, samples=samples, failed="", told={"verdicts": ["one"]})


def test_texts_and_times_are_compared_with_the_plain_side_of_the_mode() -> None:
    sides = [side(SERIAL, [[1], [2]], tpot_ms=[4.0, 2.0, 3.0]), side(OURS, [[1], [3]], tpot_ms=[2.0])]
    equal = vllm_generate._equal_texts(sides)
    assert equal == {("FULL", OURS): (False, "1/2")}
    table = vllm_generate._table(sides, equal)
    assert "2.000 (1.500x)" in table and "1/2" in table and "- FULL, graphstreams: one" in table


def test_a_text_in_which_vllm_differs_from_itself_tells_nothing_of_ours() -> None:
    texts = {SERIAL: [[1], [2], [3]], AGAIN: [[1], [2], [4]], OURS: [[1], [2], [5]]}
    sides = [side(name, own) for name, own in texts.items()]
    equal = vllm_generate._equal_texts(sides)
    assert equal == {("FULL", AGAIN): (True, "2/3"), ("FULL", OURS): (True, "2/3, 2/2 of those that vLLM repeats")}
    sides[2].texts = [[1], [7], [3]]
    assert vllm_generate._equal_texts(sides)["FULL", OURS] == (False, "2/3, 1/2 of those that vLLM repeats")


def test_weights_differ_and_keep_the_size_of_what_they_multiply() -> None:
    one, other = torch.zeros(64, 256, dtype=torch.bfloat16), torch.zeros(64, 256, dtype=torch.bfloat16)
    vllm_worker.fill(one, "weight", 1)
    vllm_worker.fill(other, "weight", 2)
    assert not torch.equal(one, other)
    assert 0.9 < float((torch.ones(1, 256) * one.float()).norm(dim=1).mean()) < 1.1
    bias, norm, ids = torch.ones(8), torch.zeros(8), torch.arange(8)
    for name, tensor in {"e_score_correction_bias": bias, "weight": norm, "ids": ids}.items():
        vllm_worker.fill(tensor, name, 3)
    assert not bias.any() and bool((norm == 1).all()) and torch.equal(ids, torch.arange(8))


def test_replays_of_the_prompt_are_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = object.__new__(vllm_worker.Engine)
    engine._vocabulary = 100
    found: list[float] = []
    engine.replays = SimpleNamespace(on=False, take=lambda: [found.pop(0) for _ in range(len(found))])  # type: ignore[assignment]
    monkeypatch.setattr(vllm_worker, "_seconds", lambda call: call() and 0.0)

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        if engine.replays.on:
            found.extend([100.0] * 3 + [7.0] * (tokens - 1))
        return [[1]]

    monkeypatch.setattr(engine, "_generate", generate)
    answer = engine.decode({"batch": 1, "seed": 0, "tokens": 5, "graph_tokens": 17})
    assert answer["graphs_us"] == 7.0 and answer["replays"] == 16
