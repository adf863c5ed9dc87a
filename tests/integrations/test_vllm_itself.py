"""Check the pass against vLLM's own configuration and pass manager. Skipped without vLLM; no GPU is needed."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from tests.support.vllm_stub import configurations_in_the_documents

vllm_config = pytest.importorskip("vllm.config")

PASSES = {"post_grad_custom_post_pass": "graphstreams.integrations.vllm.vllm_pass"}


@pytest.fixture
def ours() -> Any:
    return importlib.import_module("graphstreams.integrations.vllm")


def test_a_configuration_takes_the_pass_by_its_name(ours: Any) -> None:
    configuration = vllm_config.CompilationConfig(inductor_passes=PASSES)
    assert configuration.inductor_compile_config["post_grad_custom_post_pass"] is ours.vllm_pass


def test_vllm_takes_the_configurations_in_the_documents(ours: Any) -> None:
    found = configurations_in_the_documents()
    assert len(found) >= 3
    for text in found:
        vllm_config.CompilationConfig(**json.loads(text))


def test_the_hash_of_a_configuration_covers_the_options(ours: Any) -> None:
    hashes = set()
    for options in ({}, {"streams": 2}, {"min_gain": 0.5}):
        configuration = vllm_config.CompilationConfig()
        configuration.inductor_compile_config["post_grad_custom_post_pass"] = ours.VllmPass(options)
        hashes.add(configuration.compute_hash())
    assert len({*hashes, vllm_config.CompilationConfig().compute_hash()}) == 4


def test_the_pass_manager_takes_the_pass(ours: Any) -> None:
    manager = importlib.import_module("vllm.compilation.passes.pass_manager").PostGradPassManager()
    manager.add(ours.vllm_pass)
    assert manager.passes == [ours.vllm_pass]


def test_the_range_of_a_piece_is_vllms(ours: Any) -> None:
    passes = importlib.import_module("vllm.compilation.passes.inductor_pass")
    tokens = importlib.import_module("vllm.config.utils").Range(start=1, end=16)
    with passes.pass_context(tokens):
        assert ours.vllm_pass.name_of("0_inference") == "0_inference_tokens_1_16"


@pytest.mark.parametrize(("module", "count"), [
    ("vllm.model_executor.layers.attention.attention", 2), ("vllm.model_executor.layers.attention.mla_attention", 2),
    ("vllm.compilation.passes.fusion.mla_rope_kvcache_cat_fusion", 1),
])  # fmt: skip
def test_operators_that_are_declared_are_defined(ours: Any, module: str, count: int) -> None:
    source = importlib.util.find_spec(module).origin  # type: ignore[union-attr]
    with open(str(source), encoding="utf-8") as file:
        text = file.read()
    names = [name.removeprefix("vllm::") for name, _ in ours.DECLARED]
    found = [name for name in names if f'op_name="{name}"' in text]
    assert len(found) == count
