"""Check the clock, the comparison of texts and the table of `generate`, on a synthetic model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import lane
from benchmarks.engines import generate_worker, transformers_generate
from benchmarks.engines.generate_models import MODELS, SIX, merged, prompt_of
from benchmarks.engines.generate_side import SETTLED, Clock, compared, first_difference, short_reports
from benchmarks.engines.generate_table import AGAIN, OURS, PLAIN, failures, ratios, table
from benchmarks.workers import Lost


def test_the_clock_notes_the_steps_that_it_is_asked_for_and_leaves_scores_alone() -> None:
    done: list[str] = []
    clock = Clock({2: lambda: done.append("two")}, lambda: done.append("wait"))
    scores = object()
    assert all(clock(None, scores) is scores for _ in range(SETTLED + 3))
    assert sorted(clock.at) == [0, 2, SETTLED]
    assert done == ["wait", "wait", "two", "wait"]


def test_milliseconds_are_those_of_all_steps_and_of_the_steady_ones() -> None:
    clock = Clock()
    clock.step, clock.at = SETTLED + 5, {0: 1.0, SETTLED: 2.0}
    whole, steady = clock.milliseconds(3.2)
    assert whole == pytest.approx(2200 / (SETTLED + 4))
    assert steady == pytest.approx(1200 / 4)


@pytest.mark.parametrize(("some", "others", "place"), [
    ([1, 2, 3], [1, 2, 3], None),
    ([1, 2, 3], [1, 5, 3], 1),
    ([1, 2], [1, 2, 3], 2),
    ([], [], None),
])  # fmt: skip
def test_the_first_token_that_differs_is_found(some: list[int], others: list[int], place: int | None) -> None:
    assert first_difference(some, others) == place


def side(mode: str, backend: str, ms: float, **record: Any) -> dict[str, Any]:
    times = {"median": ms, "first_quartile": ms - 0.1, "third_quartile": ms + 0.1}
    return {"mode": mode, "backend": backend, "graphs": 1, "cudagraph_skips": 0, "reports": [], **record,
            "ms": {"all": times, "steady": times} if "failed" not in record else {}}  # fmt: skip


def result(*sides: dict[str, Any]) -> dict[str, Any]:
    texts = {"reduce-overhead": {OURS: {"texts": 3, "equal": 2, "first": 40}, AGAIN: {"texts": 3, "equal": 3, "first": None}}}
    return {"model": "cohere", "sides": list(sides), "texts": texts, "paired": {}}


def paired(plain: float, ours: float, again: float) -> dict[str, Any]:
    samples = {PLAIN: [plain] * 6, OURS: [ours] * 6, AGAIN: [again] * 6}
    return {kind: {name: asdict(each) for name, each in ratios(samples).items()} for kind in ("all", "steady")}


def test_the_ratio_is_to_plain_code_compiled_before_and_behind_ours() -> None:
    samples = {PLAIN: [2.0, 4.0] * 3, OURS: [1.0, 2.0] * 3, AGAIN: [3.0, 6.0] * 3}
    found = ratios(samples)
    assert found["ratio"].median == pytest.approx(2.5)  # half of the pairs have 2, the others 3
    assert found["control"].median == pytest.approx(2 / 3)
    assert ratios({**samples, AGAIN: []}) == {}


def test_a_ratio_under_its_bar_does_not_hold() -> None:
    found = result(side("reduce-overhead", PLAIN, 2.0), side("reduce-overhead", OURS, 1.9), side("reduce-overhead", AGAIN, 2.0))
    found["paired"] = {"reduce-overhead": paired(2.0, 1.9, 2.0)}
    (told,) = failures(found)
    assert told.startswith("reduce-overhead: 1.053x") and "the bar is 1.08x" in told and told.endswith("fails")
    text = table([found])
    assert "2/3, first at 40" in text and "- cohere: reduce-overhead: 1.053x" in text


def test_a_side_that_failed_has_no_ratio_and_is_told() -> None:
    found = result(side("default", PLAIN, 2.0), side("default", OURS, 0.0, failed="ValueError: no"))
    assert failures(found) == ["default, graphstreams: ValueError: no"]
    assert "ValueError: no" in table([found])


def test_verdicts_and_a_profile_stand_in_the_table() -> None:
    report = {"verdict": "clean", "kernels_serial": 40, "kernels_streamed": 41, "reason": ""}
    found = result(side("default", PLAIN, 2.0), side("default", OURS, 1.5, reports=[report]))
    summary = {"kernels": 3.0, "by name": {"gemm": [1.0, 5.0]}}
    text = table([{**found, "profile": {"default": {PLAIN: summary, OURS: summary}}}])
    assert "clean 40>41" in text
    assert "## cohere, default: one steady step" in text and "1 x, 5.0 us" in text


def test_texts_are_compared_with_plain_inductors() -> None:
    texts = {PLAIN: [[1, 2], [3, 4]], OURS: [[1, 2], [3, 5]], AGAIN: [[1, 2], [3, 4]]}
    sides = [SimpleNamespace(backend=backend, texts=own) for backend, own in texts.items()]
    assert compared(sides) == {  # type: ignore[arg-type]
        OURS: {"texts": 2, "equal": 1, "first": 1},
        AGAIN: {"texts": 2, "equal": 2, "first": None},
    }
    assert compared(sides[1:]) == {}  # type: ignore[arg-type]


def test_reports_are_read_and_what_they_lack_is_none(tmp_path: Path) -> None:
    (tmp_path / "0_inference").mkdir()
    (tmp_path / "0_inference" / "report.json").write_text(json.dumps({"verdict": "clean"}))
    (report,) = short_reports(tmp_path)
    assert (report["verdict"], report["streams"]) == ("clean", None)


def config_of(**more: Any) -> Any:
    return SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=50), **more)


def test_prompts_are_the_same_for_the_same_seed() -> None:
    one, same, other = (prompt_of(config_of(), 8, seed, "cpu")["input_ids"] for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_model_that_sees_is_asked_with_an_image_before_the_words() -> None:
    vision = SimpleNamespace(image_size=16)
    words = {"boi_token_index": 40, "image_token_index": 42, "eoi_token_index": 41, "mm_tokens_per_image": 4}
    prompt = prompt_of(config_of(vision_config=vision, **words), 8, 0, "cpu")
    assert prompt["input_ids"][0, :6].tolist() == [40, 42, 42, 42, 42, 41] and prompt["input_ids"].shape == (1, 14)
    assert prompt["input_ids"][0, 6:].max() < 40 and prompt["pixel_values"].shape == (1, 3, 16, 16)
    assert torch.equal(prompt["attention_mask"], torch.ones(1, 14))


def test_settings_of_parts_are_merged() -> None:
    assert merged({"a": 1, "text": {"b": 2, "c": 3}}, {"text": {"c": 4}, "d": 5}) == {"a": 1, "text": {"b": 2, "c": 4}, "d": 5}
    tiny, full = (MODELS["gemma3"].settings(3, each) for each in (True, False))
    assert tiny["text_config"]["hidden_size"] == 64 and full["text_config"]["hidden_size"] == 2560
    assert [each["text_config"]["num_hidden_layers"] for each in (tiny, full)] == [3, 3]
    assert MODELS["bamba"].settings(4, False)["attn_layer_indices"] == [2]
    assert len({MODELS[name].config for name in SIX}) == 6


class Model:
    """Generates the place of each token; slower as ours."""

    config = config_of()

    def generate(self, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        for _ in range(given["max_new_tokens"]):
            given["logits_processor"][0](input_ids, None)
            time.sleep(0.001)
        return torch.cat([input_ids, torch.arange(given["max_new_tokens"])[None]], 1)


class InThisProcess:
    """Stands in for a worker's process."""

    def __init__(self, command: Any, environment: Any, log: Path) -> None:
        self.folder = log.parent

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        if request["do"] == "prepare":
            if request["model"] == "t5":
                raise Lost("the process ended with status -9")
            self.model = generate_worker.Model(request, self.folder)
            return {}
        return self.model.measure(request["mode"], request["profile"])

    def close(self) -> None:
        pass


def test_the_whole_course_with_a_synthetic_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = SimpleNamespace(LogitsProcessorList=list)
    monkeypatch.setitem(sys.modules, "transformers", transformers)  # type: ignore[arg-type]
    monkeypatch.setattr(generate_worker, "build", lambda *_: Model())
    monkeypatch.setattr(generate_worker, "sharing", lambda model: model)
    monkeypatch.setattr(generate_worker, "compile_config", lambda *_: None)
    monkeypatch.setattr(lane, "Worker", InThisProcess)
    words = ["--device", "cpu", "--models", "cohere", "t5", "--rounds", "6", "--tokens", "20", "--out", str(tmp_path)]
    assert transformers_generate.main(words) == 1  # of one model the process ended
    found, lost = json.loads((tmp_path / "transformers.json").read_text())["models"]
    assert found["texts"]["default"][OURS] == {"texts": 6, "equal": 6, "first": None}
    assert set(found["paired"]) == {"default", "reduce-overhead"}
    assert all(each["ms"]["all"]["median"] >= 1.0 for each in found["sides"])
    assert [each["backend"] for each in found["sides"]] == [PLAIN, OURS, AGAIN] * 2
    assert len(failures(lost)) == 2 and "status -9" in failures(lost)[0]
    assert "status -9" in (tmp_path / "transformers.md").read_text()


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_generate, "gpus", lambda: 0)
    assert transformers_generate.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
