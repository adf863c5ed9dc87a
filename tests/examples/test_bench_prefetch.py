"""Check the benchmark of prefetches: which forms it times, and its tables."""

from __future__ import annotations

from typing import Any

import bench_prefetch
import bench_prefetch_report
import pytest
import torch
from bench_prefetch_report import ALONE, COLD, TWICE, WITH


def _times(us: dict[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"median": each, "first_quartile": each, "third_quartile": each} for name, each in us.items()}


@pytest.fixture
def row() -> dict[str, Any]:
    us = {ALONE: 20.0, COLD: 32.0, TWICE: 40.0, "few": 20.5, "few" + WITH: 31.0, "many": 23.0, "many" + WITH: 31.5}
    named = {"depth": 2048, "columns": 7168, "first": "top-k", "second": "cuBLAS", "best": "few", "left_out": 0}
    return {**named, "us": _times(us), "forms": {"many": {}, "few": {}}}


def test_times_of_parts_are_differences_of_wholes(row: dict[str, Any]) -> None:
    assert bench_prefetch_report.cells(row) == [
        "2048 x 7168", "top-k", "cuBLAS", "32.00 (32.00..32.00)", "12.00", "8.00", "few", "31.00 (31.00..31.00)", "1.00",
        "10.50", "0.50",
    ]  # fmt: skip
    assert [line[1:] for line in bench_prefetch_report.forms_table(row)] == [
        ["few", "31.00 (31.00..31.00)", "1.00", "10.50", "0.50"],
        ["many", "31.50 (31.50..31.50)", "0.50", "8.50", "3.00"],
    ]


def test_a_product_that_failed_is_told(row: dict[str, Any]) -> None:
    failed = {**{name: row[name] for name in ("depth", "columns", "first", "second")}, "failed": "RuntimeError: no"}
    machine = {name: name for name in ("device", "driver", "cuda", "torch", "triton", "python", "date", "command")}
    result = {**machine, "rounds": 10, "repeats": 3, "kind": "bfloat16", "of_rows": 1, "rows": [row, failed]}
    assert "failed: RuntimeError: no" in bench_prefetch_report.tables(result)


def test_no_more_than_the_weight_is_prefetched() -> None:
    arguments = bench_prefetch.parse_args(["--programs", "8", "48", "--megabytes", "4", "16", "40", "--instructions", "bulk"])
    found = bench_prefetch.forms_of(arguments, 10_000_000, (9, 0))
    assert sorted({size for _, size in found.values()}) == [4_000_000, 10_000_000]
    assert len(found) == 2 * 2 * sum(form.instruction == "bulk" for form in bench_prefetch.FORMS)
    assert not bench_prefetch.forms_of(arguments, 10_000_000, (8, 0))


def test_the_defaults_are_all_instructions_with_all_blocks_and_bytes() -> None:
    found = bench_prefetch.forms_of(bench_prefetch.parse_args([]), 10**8, (9, 0))
    assert len(found) == len(bench_prefetch.FORMS) * 7 * 6
    assert {form.programs for form, _ in found.values()} == {8, 16, 32, 48, 64, 96, 132}


@pytest.mark.parametrize(
    "given", [["--programs", "0"], ["--megabytes", "0"], ["--rounds", "1"], ["--rows", "65"], ["--k", "5", "--length", "4"]]
)
def test_the_command_line_refuses_what_cannot_run(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        bench_prefetch.parse_args(given)


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_prefetch.main([]) == 2
    assert "bench_prefetch needs a CUDA device" in capsys.readouterr().err
