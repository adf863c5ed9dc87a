"""Check kernels="fast" on a GPU: what is chosen, that it is found again, and that compiled graphs with it are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepseek_v32
import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.few_rows_benchmark import times_of_products
from graphstreams.benchmark.bits import difference, equal_bits
from graphstreams.benchmark.tables import ROUNDING
from graphstreams.costs.few_rows import FormTime, right_forms
from graphstreams.inductor.few_rows import WeightProduct
from graphstreams.kernels.few_rows_candidates import candidates
from graphstreams.pipeline import fast_kernels

pytestmark = pytest.mark.gpu

TAKEN = 3  # of ten forms of a product


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()


def compiled(module: Any, inputs: Sequence[Any], folder: Path, **options: Any) -> tuple[CapturedFunction, Any, dict[str, Any]]:
    """Return a module as a CUDA graph and as it is compiled, and the report on its largest graph."""
    torch._dynamo.reset()
    asked = {"strict": "refused", "fx_graph_cache": False, "dump": str(folder), **options}
    with torch.no_grad():
        function = torch.compile(module, backend="graphstreams", options=asked)
        captured = CapturedFunction(function, inputs)
    reports = [json.loads(path.read_text()) for path in folder.glob("*/report.json")]
    return captured, function, max(reports, key=lambda report: int(report["kernels_serial"]))


def fast_notes(report: dict[str, Any]) -> list[str]:
    return [note for note in report["notes"] if note.startswith("kernels='fast'")]


def test_the_v32_layer_is_no_slower_within_rounding_and_decided_once(tmp_path: Path) -> None:
    config = deepseek_v32.Config(tp=8)
    module = deepseek_v32.build(config, "cuda")
    inputs = deepseek_v32.example_inputs(config, "cuda", 0)
    ours, _, report = compiled(module, inputs, tmp_path / "first", kernels="fast")
    notes = fast_notes(report)
    print("\n".join(notes), report["seconds"])
    for name in ("fused_qkv_a_proj", "q_b_proj", "indexer.wk_weights_proj", "indexer.wq_b", "o_proj"):
        assert any(f"'{name}'" in note for note in notes), (name, notes)
    assert any("in turns" in note for note in notes) and not any("please report" in note for note in notes), notes
    wrapper = next((tmp_path / "first").glob("*/wrapper.py")).read_text()
    assert ("few_rows_" in wrapper) == any("products replaced" in note for note in notes)
    with torch.no_grad():
        serial = torch.compile(module, options={"fx_graph_cache": False})
        for seed in range(3):
            fresh = deepseek_v32.example_inputs(config, "cuda", seed)
            ours.load(fresh)
            ours.replay()
            assert difference([serial(*fresh)], ours.outputs) < ROUNDING
    again = fast_notes(compiled(module, inputs, tmp_path / "second", kernels="fast")[2])
    assert [note for note in again if note not in notes] == ["kernels='fast': this was decided by an earlier compile"]


class _Products(torch.nn.Module):
    """Products of few rows of several kinds, beside each other and one behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(1024, 768, bias=False)
        self.second = torch.nn.Linear(768, 520)
        self.beside = torch.nn.Linear(1024, 333)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        middle = self.first(x).relu()
        return self.second(middle), self.beside(x) * 2, middle.sum(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 16, 64])
def test_replaced_products_give_torchs_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int, dtype: torch.dtype
) -> None:
    taken: list[int] = []

    def decide(found: Sequence[WeightProduct], *_: Any) -> fast_kernels.Decision:
        forms = {}
        for number, each in enumerate(found):
            asked = candidates(each.product, 132)
            forms[each.node.name] = FormTime(asked[(TAKEN * number + rows) % len(asked)], 1.0, 0.0, 0.0, True)
        taken.append(len(forms))
        return fast_kernels.Decision(forms, ("they were asked for",))

    monkeypatch.setattr(fast_kernels, "decide", decide)
    torch.manual_seed(0)
    module = _Products().to("cuda", dtype)
    x = torch.randn(rows, 1024, device="cuda", dtype=dtype)
    captured, function, report = compiled(module, [x], tmp_path / "dump", kernels="fast", min_gain=0.0)
    assert taken == [3] and "they were asked for" in report["notes"]
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn_like(x)
            captured.load([x])
            captured.replay()
            assert difference([*module(x)], captured.outputs) < ROUNDING
            assert equal_bits([*function(x)], captured.outputs)


@pytest.mark.parametrize("scales", ["block", "token"])
def test_float8_layers_products_are_timed_and_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scales: Any) -> None:
    measured: list[Any] = []

    def times(found: Sequence[WeightProduct], device: Any) -> Any:
        measured.append(times_of_products(found, device))
        return measured[-1]

    def decide(found: Sequence[WeightProduct], times: Any, *_: Any) -> fast_kernels.Decision:
        fastest = {each.node.name: right_forms(times[each.operation])[0] for each in found}
        return fast_kernels.Decision(fastest, ("the fastest alone",))

    monkeypatch.setattr(fast_kernels, "times_of_products", times)
    monkeypatch.setattr(fast_kernels, "decide", decide)
    config = replace(deepseek_v32.Config(tp=8, fp8=True), fp8_scales=scales)
    module, inputs = deepseek_v32.build(config, "cuda"), deepseek_v32.example_inputs(config, "cuda", 0)
    captured, _, report = compiled(module, inputs, tmp_path / "dump", kernels="fast", min_gain=0.0)
    assert "the fastest alone" in report["notes"]
    for operation, own in measured[0].items():
        right = right_forms(own)
        print(operation, own.torch_us, own.torch_error, right[:2])
        assert len(right) == len(own.forms) > 0, operation
    with torch.no_grad():
        captured.load(inputs)
        captured.replay()
        assert difference([torch.compile(module, options={"fx_graph_cache": False})(*inputs)], captured.outputs) < ROUNDING
