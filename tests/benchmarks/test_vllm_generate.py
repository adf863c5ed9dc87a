"""Check what the benchmark of vLLM tells each side, and what it makes of the answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.engines import vllm_generate, vllm_models
from benchmarks.engines.vllm_models import BY_HAND, MODELS, MODES, OURS, SERIAL, compilation_of, config_of


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
    assert {name: given[vllm_models.DUAL_STREAM] for name, given in sides.items()} == {SERIAL: "0", OURS: "0", BY_HAND: "256"}


def side(name: str, texts: list[list[int]], **samples: list[float]) -> Any:
    return SimpleNamespace(name=name, mode="FULL", texts=texts, samples=samples, failed="", told={"verdicts": ["one"]})


def test_texts_and_times_are_compared_with_the_plain_side_of_the_mode() -> None:
    sides = [side(SERIAL, [[1], [2]], tpot_ms=[4.0, 2.0, 3.0]), side(OURS, [[1], [3]], tpot_ms=[2.0])]
    equal = vllm_generate._equal_texts(sides)
    assert equal == {("FULL", OURS): (False, "1/2")}
    table = vllm_generate._table(sides, equal)
    assert "2.000 (1.500x)" in table and "1/2" in table and "- FULL, graphstreams: one" in table
