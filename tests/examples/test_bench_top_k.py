"""Check the benchmark of top-k: its shapes, its table and the rule that is made of a result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_top_k
import bench_top_k_report
import pytest
import torch

from graphstreams.costs.top_k import choose_form
from graphstreams.costs.top_k_times import TopKTimes
from graphstreams.kernels.top_k import OneProgram, SeveralPrograms, TopK, fields_of, form_name, form_of

ONE, SHARED = OneProgram(16), SeveralPrograms()


def _times(**us: float) -> dict[str, dict[str, float]]:
    return {name: {"median": each, "first_quartile": each - 1, "third_quartile": each + 1} for name, each in us.items()}


def _row(length: int, one_wrong: int = 0) -> dict[str, Any]:
    times = _times(aten=20.0, one=10.0, shared=8.0, FlashInfer=5.0)
    times[form_name(ONE)], times[form_name(SHARED)] = times.pop("one"), times.pop("shared")
    wrong = {form_name(ONE): one_wrong, form_name(SHARED): 0}
    row = {"dtype": "float32", "rows": 1, "length": length, "wrong": wrong, "runs": dict.fromkeys(wrong, 8)}
    row.update(graph=times, alike=times, direct=times)
    return {**row, "best": form_name(SHARED)}


@pytest.fixture
def result() -> dict[str, Any]:
    machine = {name: name for name in ("device", "driver", "cuda", "torch", "triton", "python", "date", "command")}
    forms = {form_name(form): fields_of(form) for form in (ONE, SHARED, OneProgram(2))}
    rows = [_row(16_384), {"dtype": "float32", "rows": 1, "length": 65_536, "failed": "RuntimeError: out of memory"}]
    return {**machine, "rounds": 20, "captures": 5, "k": 2048, "rows": rows, "forms": forms}


def test_short_rows_are_not_shared_and_long_ones_are() -> None:
    def kinds(length: int) -> set[type]:
        return {type(form) for form in bench_top_k.forms_of(TopK(1, length, 2048, torch.float32, length), sweep=True)}

    assert kinds(4096) == {OneProgram}
    assert kinds(16_384) == {OneProgram, SeveralPrograms}
    assert kinds(131_072) == {SeveralPrograms}


def test_the_table_has_the_best_form_beside_aten(result: dict[str, Any]) -> None:
    assert bench_top_k_report.cells(result["rows"][0]) == [
        "float32", "1", "16384", "20.0 (19.0..21.0)", form_name(SHARED), "8.0 (7.0..9.0)", "2.50x", "8.0 (7.0..9.0)", "2.50x",
        "5.0 (4.0..6.0)", "0 / 16",
    ]  # fmt: skip
    text = bench_top_k_report.tables(result)
    assert "failed: RuntimeError: out of memory" in text and form_name(ONE) in text


def test_the_rule_has_forms_that_never_were_wrong(result: dict[str, Any], tmp_path: Path) -> None:
    result["rows"].append(_row(32_768, one_wrong=1))
    source, target = tmp_path / "top_k.json", tmp_path / "rule.json"
    source.write_text(json.dumps(result))
    assert bench_top_k.main(["--rule", str(source), "--to", str(target)]) == 0
    rule = json.loads(target.read_text())
    assert rule["measured"]["device"] == "device"
    assert {name: form_of(fields) for name, fields in rule["forms"].items()} == {form_name(SHARED): SHARED}
    us = {"aten": 20.0, form_name(SHARED): 8.0}
    assert rule["times"] == [
        {"dtype": "float32", "rows": 1, "length": length, "k": 2048, "us": us, "direct_us": us} for length in (16_384, 32_768)
    ]


def test_a_later_result_counts_where_shapes_are_the_same(result: dict[str, Any]) -> None:
    later = {**result, "date": "later", "rows": [_row(16_384, one_wrong=1), _row(8192)]}
    later["rows"][0]["graph"] = _times(aten=30.0)
    rule = bench_top_k.rule([result, later])
    assert {entry["length"]: entry["us"]["aten"] for entry in rule["times"]} == {16_384: 30.0, 8192: 20.0}
    assert rule["measured"]["date"] == "later" and rule["measured"]["command"] == "command; command"
    assert bench_top_k.rule([bench_top_k.rule([result]), later]) == rule  # what was written before, with a later result
    with pytest.raises(SystemExit, match="several devices or versions"):
        bench_top_k.rule([result, {**later, "torch": "another"}])


def test_times_of_sorted_results_stand_beside_the_others_in_the_table(result: dict[str, Any]) -> None:
    of_sorted = {**result, "sorted": True, "rows": [_row(16_384)]}
    of_sorted["rows"][0]["graph"] = _times(aten=30.0, **{form_name(ONE): 25.0})
    rule = bench_top_k.rule([result, of_sorted])
    assert [(entry["length"], entry.get("sorted"), entry["us"]["aten"]) for entry in rule["times"]] == [
        (16_384, None, 20.0),
        (16_384, True, 30.0),
    ]
    assert bench_top_k.rule([rule, of_sorted])["times"] == rule["times"]  # what was written before, with a later result
    times = TopKTimes.loads(json.dumps(rule))
    asked = TopK(1, 16_384, 2048, torch.float32, 16_384, sorted=True)
    assert choose_form(asked, times, "device").form == ONE
    assert choose_form(replace(asked, sorted=False), times, "device").form == SHARED


def test_the_result_says_that_it_is_sorted(result: dict[str, Any]) -> None:
    assert "elements, not sorted" in bench_top_k_report.tables(result)
    text = bench_top_k_report.tables({**result, "sorted": True})
    assert "# Top-k of 2048 elements, sorted" in text and "FlashInfer does not sort" in text


def test_sorted_results_agree_if_only_ties_stand_in_another_order() -> None:
    values, indices, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    for is_sorted in (True, False):
        asked = TopK(1, 2, 2, torch.float32, 2, sorted=is_sorted)
        assert bench_top_k.agree(asked, (values, indices), (values, other)) is is_sorted


def test_flashinfer_is_not_timed_beside_sorted_results() -> None:
    asked = TopK(1, 4096, 2048, torch.float32, 4096)
    assert "FlashInfer" in bench_top_k.columns(asked, sweep=False, other=torch.topk)
    found = bench_top_k.columns(replace(asked, sorted=True), sweep=False, other=torch.topk)
    assert "FlashInfer" not in found
    values, _ = found["aten"](torch.arange(4096.0).reshape(1, -1))
    assert values[0, :2].tolist() == [4095.0, 4094.0]


def test_called_directly_are_the_fastest_form_and_the_fastest_of_one_launch(result: dict[str, Any]) -> None:
    row = _row(16_384)
    assert bench_top_k.to_call(row, result["forms"]) == [SHARED, ONE]
    assert bench_top_k.to_call({**row, "wrong": {form_name(ONE): 0}}, result["forms"]) == [ONE]


def test_functions_of_one_text_are_compiled_apart() -> None:
    first, second = bench_top_k._selecting(2), bench_top_k._selecting(2)
    assert first.__code__ is not second.__code__
    assert torch.equal(first(torch.arange(4.0))[1].sort()[0], torch.tensor([2, 3]))
    assert bench_top_k._selecting(2, is_sorted=True)(torch.arange(4.0))[1].tolist() == [3, 2]


def test_a_sweep_has_fewer_rows() -> None:
    assert bench_top_k.parse_args(["--sweep"]).rows == [1, 8, 64]
    assert bench_top_k.parse_args([]).rows == list(bench_top_k.ROWS)
    assert bench_top_k.parse_args(["--sweep", "--rows", "3"]).rows == [3]


def test_results_are_sorted_if_that_is_asked_for() -> None:
    assert bench_top_k.parse_args(["--sorted"]).sorted and not bench_top_k.parse_args([]).sorted


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--rows", "0"], "at least 1"), (["--rounds", "1"], "at least 2"), (["--dtypes", "bool"], "no bool")],
)
def test_the_command_line_refuses_what_cannot_run(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_top_k.parse_args(given)
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_top_k.main([]) == 2
    assert "bench_top_k needs a CUDA device" in capsys.readouterr().err
