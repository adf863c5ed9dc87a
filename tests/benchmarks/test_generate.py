"""Check the clock, the comparison of texts and the table of `generate`, on a synthetic model."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import generate
import pytest
import torch
from generate import SETTLED, Clock, compared, first_difference, prompt_of, short_reports
from generate_report import AGAIN, OURS, PLAIN, failures, ratios, table


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
    return {"model": "cohere", "sides": list(sides), "texts": {"reduce-overhead": {"texts": 3, "equal": 2, "first": 40}},
            "paired": {}}  # fmt: skip


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


def test_texts_are_compared_by_mode() -> None:
    sides = [SimpleNamespace(mode="default", backend=backend, texts=texts)
             for backend, texts in ((PLAIN, [[1, 2], [3, 4]]), (OURS, [[1, 2], [3, 5]]))]  # fmt: skip
    assert compared(sides) == {"default": {"texts": 2, "equal": 1, "first": 1}}  # type: ignore[arg-type]
    assert compared(sides[:1]) == {}  # type: ignore[arg-type]


def test_reports_are_read_and_what_they_lack_is_none(tmp_path: Path) -> None:
    (tmp_path / "0_inference").mkdir()
    (tmp_path / "0_inference" / "report.json").write_text(json.dumps({"verdict": "clean"}))
    (report,) = short_reports(tmp_path)
    assert (report["verdict"], report["streams"]) == ("clean", None)


def test_prompts_are_the_same_for_the_same_seed() -> None:
    assert torch.equal(prompt_of(50, 8, 3, "cpu"), prompt_of(50, 8, 3, "cpu"))
    assert not torch.equal(prompt_of(50, 8, 3, "cpu"), prompt_of(50, 8, 4, "cpu"))


class Model:
    """Generates the place of each token; slower as ours."""

    config = SimpleNamespace(vocab_size=50)

    def generate(self, prompt: torch.Tensor, **given: Any) -> torch.Tensor:
        for _ in range(given["max_new_tokens"]):
            given["logits_processor"][0](prompt, None)
            time.sleep(0.001)
        return torch.cat([prompt, torch.arange(given["max_new_tokens"])[None]], 1)


def test_the_whole_course_with_a_synthetic_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = SimpleNamespace(LogitsProcessorList=list)
    monkeypatch.setitem(sys.modules, "transformers", transformers)  # type: ignore[arg-type]
    monkeypatch.setattr(generate, "build", lambda *_: Model())
    monkeypatch.setattr(generate, "sharing", lambda model: model)
    monkeypatch.setattr(generate, "compile_config", lambda *_: None)
    status = generate.main(["--device", "cpu", "--models", "cohere", "--rounds", "6", "--tokens", "20", "--out", str(tmp_path)])
    (found,) = json.loads((tmp_path / "generate.json").read_text())["models"]
    assert status in (0, 1)  # the times are real
    assert found["texts"]["default"] == {"texts": 6, "equal": 6, "first": None}
    assert set(found["paired"]) == {"default", "reduce-overhead"}
    assert all(each["ms"]["all"]["median"] >= 1.0 for each in found["sides"])
    assert [each["backend"] for each in found["sides"]] == [PLAIN, OURS, AGAIN] * 2


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert generate.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
