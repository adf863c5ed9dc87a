"""Two versions of the package in turns: who is asked what, what a row says, and the worker's course without a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "benchmark")]
import direct
import direct_worker
from direct import failures, in_turns, measure, ratio, table
from more_modules import GatedExperts, WideBranches
from on_cpu import CpuContestant
from workers import Lost

US = {"serial": 100.0, "new": 90.0, "old": 80.0}
SIDES = {"serial", "new", "serial, old process", "old"}


class Named:
    """A package whose answers are made up."""

    def __init__(self, name: str, asked: list[Any], fails: str = "") -> None:
        self.name, self.asked, self.fails, self.alive = name, asked, fails, True

    def ask(self, timeout_s: float = 60.0, **request: Any) -> dict[str, Any]:
        self.asked.append((self.name, request["do"], request.get("way", ""), request.get("side", "")))
        if request["do"] == self.fails:
            self.alive = False
            raise Lost("gone")
        if request["do"] == "prepare":
            return {"verdict": "clean", "reason": "", "wrong": {"graph": 0, "direct": 0}}
        return {"us": US["serial" if request.get("side") == "serial" else self.name]} if request["do"] == "time" else {}

    def close(self) -> None:
        pass


def test_sides_take_turns_and_all_are_captured_again_four_times() -> None:
    asked: list[Any] = []
    samples = in_turns([Named("new", asked), Named("old", asked)], 10)
    assert [each[0::2] for each in asked[:4]] == [("new", "graph")] * 2 + [("old", "graph")] * 2
    assert [each[3] for each in asked[:4]] == ["serial", "ours"] * 2
    assert sum(each[:2] == ("old", "capture") for each in asked) == 4
    assert {way: set(sides) for way, sides in samples.items()} == {w: SIDES for w in ("graph", "direct", "host")}
    assert all(len(own) == 10 for sides in samples.values() for own in sides.values())


def test_a_row_has_ratios_and_what_does_not_hold() -> None:
    row = measure("experts", [Named("new", []), Named("old", [])], 5)
    assert ratio(row, "direct", "new", "serial") == pytest.approx(100 / 90)
    assert ratio(row, "graph", "new", "old") == pytest.approx(80 / 90)
    assert failures(row) == ["graph: 0.889x of old, less than 0.98"]
    assert "| experts | 100.0 " in table([row]) and "0.889x" in table([row])


def test_a_row_without_a_baseline_is_compared_with_serial_only() -> None:
    row = measure("experts", [Named("new", [])], 5)
    assert ratio(row, "graph", "new", "old") is None
    assert failures(row) == []


def test_what_is_lost_fails_its_row_and_is_not_asked_again() -> None:
    asked: list[Any] = []
    row = measure("huge", [Named("new", asked), Named("old", asked, "prepare")], 5)
    assert failures(row) == ["gone"]
    assert asked[-1][:2] == ("new", "drop")
    assert "gone" in table([row])


def test_slower_rows_and_other_bits_do_not_hold() -> None:
    us = {"direct": {"serial": {"median": 98.0}, "new": {"median": 100.0}}}
    row = {"name": "r", "us": us, "sides": {"new": {"wrong": {"graph": 2, "direct": 0}}}}
    assert failures(row) == ["direct: 0.980x of serial, less than 0.99", "graph: other bits in 2 runs"]


def test_a_worker_prepares_times_and_drops_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(4, 4)

    def inputs(seed: int) -> list[torch.Tensor]:
        return [torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))]

    def compiled(module: Any, backend: Any = "inductor", options: Any = None) -> Callable[..., Any]:
        if backend != "inductor":
            folder = Path(options["dump"]) / "0_inference"
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps({"verdict": "clean", "reason": "", "kernels_serial": 4}))
        return module  # type: ignore[no-any-return]

    monkeypatch.setattr(direct_worker, "made", lambda row: (module, inputs))
    monkeypatch.setattr(direct_worker, "CompiledVariant", CpuContestant)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for timer in ("times_in_turns", "host_times_in_turns"):
        monkeypatch.setattr(direct_worker, timer, lambda functions, rounds, repeats, discarded: [[float(repeats)]])
    row = direct_worker.Row("deterministic")
    told = row({"do": "prepare", "row": "any"})
    assert (told["verdict"], told["wrong"]) == ("clean", {"graph": 0, "direct": 0})
    for way in ("graph", "direct", "host"):
        assert row({"do": "time", "way": way, "side": "ours", "repeats": 7}) == {"us": 7.0}
    row({"do": "capture"})
    assert row({"do": "drop"}) == {}
    assert not row._sides


def test_modules_beside_the_examples_run() -> None:
    with torch.no_grad():
        assert [value.shape for value in GatedExperts(8, 2, 3, 4)(torch.zeros(5, 8))] == [(5, 1)] * 3
        assert WideBranches(8, 2, 2)(torch.zeros(5, 8)).shape == (5, 8)


def test_rows_are_those_of_the_bench_and_three_more() -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    from bench_deepseek import WORKLOADS
    from more_modules import MORE

    assert tuple(direct.ROWS) == (*WORKLOADS, *MORE)


@pytest.mark.parametrize("arguments", [["--rounds", "1"], ["--baseline", "/nowhere"], ["--rows", "none"]])
def test_arguments_that_are_none_are_refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        direct.parse_args(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert direct.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_whole_course_with_made_up_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphstreams.benchmark import results

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(results, "environment", lambda: {"device": "?"})
    monkeypatch.setattr(direct, "Package", lambda name, checkout, arguments: Named(name, []))
    options: Mapping[str, str] = {"--baseline": str(ROOT), "--rounds": "5", "--out": str(tmp_path)}
    assert direct.main(["--rows", "wide", *(part for pair in options.items() for part in pair)]) == 1
    (row,) = json.loads((tmp_path / "direct.json").read_text())["rows"]
    assert row["us"]["graph"]["old"]["median"] == 80.0
    assert "new/old" in (tmp_path / "direct.md").read_text()
