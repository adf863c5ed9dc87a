"""Check the table of compile times, from results as processes give them. No GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compile_time
import pytest
import torch


def a_round(seconds: float, **stages: float) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for way in compile_time.WAYS:
        found[way] = {"seconds": seconds, "stages": {}, "output": 1.5}
        found[f"{way}, again"] = {"seconds": seconds / 2, "stages": {}, "output": 1.5}
    for way in compile_time.OPTIONS:
        found[f"{way}, stages"] = {"seconds": seconds, "stages": stages, "output": 1.5}
    return found


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_has_medians_and_stages() -> None:
    table = compile_time.table([a_round(10.0, read=0.5, plan=1.0), a_round(12.0, read=0.7, plan=1.0), a_round(20.0, read=0.6)])
    serial, _, search = rows(table)
    assert serial == ["serial", "12.00", "6.00", "equal", "-", "-"]
    assert search == ["graphstreams, search", "12.00", "6.00", "equal", "1.50", "read 0.60, plan 1.00"]


def test_another_output_of_a_second_process_is_told() -> None:
    found = a_round(10.0, read=0.5)
    found["graphstreams, search, again"]["output"] = 1.25
    assert [row[3] for row in rows(compile_time.table([found]))] == ["equal", "equal", "DIFFERENT"]


def test_a_round_has_the_ways_asked_for_and_tells_each_process_as_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str, bool]] = []

    def process(way: str, cache: str, reported: bool = False) -> dict[str, Any]:
        assert Path(cache).is_dir()
        asked.append((way, cache, reported))
        return {"seconds": float(len(asked)), "stages": {"plan": 1.0} if reported else {}, "output": 1.5}

    monkeypatch.setattr(compile_time, "in_fresh_process", process)
    search = "graphstreams, search"
    found = compile_time.one_round(["serial", search])
    assert [(way, reported) for way, _, reported in asked] == [
        ("serial", False), ("serial", False), (search, False), (search, False), (search, True),
    ]  # fmt: skip
    caches = [cache for _, cache, _ in asked]
    assert caches[0] == caches[1] and caches[2] == caches[3] and len(set(caches)) == 3
    assert capsys.readouterr().err.splitlines()[-1] == f"{search}, stages: 5.00 s"
    assert [row[:3] for row in rows(compile_time.table([found]))] == [["serial", "1.00", "2.00"], [search, "3.00", "4.00"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_time.main([]) == 2
    assert "CUDA" in capsys.readouterr().err
