"""Check two versions of the package in turns: who is asked what, what a row says, and the worker without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import direct
import direct_side
import direct_worker
import pytest
import torch
from deepseek_workloads import WORKLOADS
from direct import measure, replays_in_turns
from direct_report import failures, ratio, table
from more_modules import MORE, GatedExperts, WideBranches
from workers import Lost

from tests.support.paths import BENCHMARKS, ROOT
from tests.support.processes import last_line

US = {"serial": 100.0, "new": 90.0, "old": 80.0}
OF_SERIAL = "of serial, the bar is 0.99 and the control"


class SyntheticPackage:
    """A package whose answers are synthetic: times of US, and a control that is off by `noise`."""

    def __init__(self, name: str, asked: list[Any], fails: str = "", us: float | None = None, noise: float = 0.0) -> None:
        self.name, self.asked, self.fails, self.alive = name, asked, fails, True
        self.us, self.noise = us or US[name], noise

    def ask(self, timeout_s: float = 60.0, **request: Any) -> dict[str, Any]:
        self.asked.append((self.name, request["do"], request.get("side", "")))
        if request["do"] == self.fails:
            self.alive = False
            raise Lost("gone")
        if request["do"] == "prepare":
            return {"verdict": "clean", "reason": "", "wrong": {"graph": 0, "direct": 0}}
        if request["do"] == "pairs":
            return dict.fromkeys(("direct", "host"), self._samples(request["pairs"]))
        return {"us": US["serial"] if request["side"] == "serial" else US[self.name]} if request["do"] == "replay" else {}

    def _samples(self, count: int) -> dict[str, list[float]]:
        """Return samples of which every third pair has a slower clock; the ratios of ours spread by 2 % to either side."""
        clock = [1.0 + (number % 3 == 0) for number in range(count)]
        spread = [0.98 + 0.04 * number / (count - 1) for number in range(count)]
        return {
            "serial": [100.0 * factor for factor in clock],
            "ours": [self.us * factor * off for factor, off in zip(clock, spread, strict=True)],
            "second serial": [100.0 * factor for factor in clock],
            "second ours": [self.us * factor * off for factor, off in zip(clock, spread, strict=True)],
            "control": [100.0 * (1 + self.noise) * factor for factor in clock],
            "control again": [100.0 * factor for factor in clock],
        }

    def close(self) -> None:
        pass


def test_sides_take_turns_and_all_are_captured_again_four_times() -> None:
    asked: list[Any] = []
    packages: Any = [SyntheticPackage("new", asked), SyntheticPackage("old", asked)]
    samples = replays_in_turns(packages, 10)
    assert [each[0] for each in asked[:4]] == ["new", "new", "old", "old"]
    assert [each[2] for each in asked[:4]] == ["serial", "ours"] * 2
    assert sum(each[:2] == ("old", "capture") for each in asked) == 4
    assert set(samples) == {"serial", "new", "serial, old process", "old"}
    assert all(len(own) == 10 for own in samples.values())


def measured(*packages: SyntheticPackage) -> dict[str, Any]:
    return measure("experts", list(packages), 5, 31, "ours")  # type: ignore[arg-type]


def test_a_row_has_ratios_and_what_does_not_hold() -> None:
    row = measured(SyntheticPackage("new", []), SyntheticPackage("old", []))
    assert row["paired"]["new"]["ratio"]["median"] == pytest.approx(100 / 90)
    assert row["paired"]["new"]["control"] == {"median": 1.0, "low": 1.0, "high": 1.0, "pairs": 31}
    assert row["us"]["direct"]["serial"]["median"] == row["us"]["host"]["serial, old process"]["median"] == 100.0
    assert ratio(row, "graph", "new", "old") == pytest.approx(80 / 90)
    assert failures(row) == ["graph: 0.889x of old, less than 0.98"]
    text = table([row])
    assert "| experts | 100.0 " in text and "0.889x" in text
    assert "| 1.111x (1.105-1.117) | 1.000x (1.000-1.000) | 1.250x (" in text


def test_a_row_without_a_baseline_is_compared_with_serial_only() -> None:
    row = measured(SyntheticPackage("new", []))
    assert ratio(row, "graph", "new", "old") is None
    assert failures(row) == []


@pytest.mark.parametrize(
    ("us", "noise", "said"),
    [
        (102.0, 0.0, "direct: 0.980x of serial, less than 0.99"),
        (102.0, 0.01, "direct: 0.980x of serial, less than 0.99"),
        (101.5, 0.02, f"direct: undecided: 0.985x (0.980-0.991) {OF_SERIAL} 1.020x (1.020-1.020)"),
        (101.5, -0.01, "direct: 0.985x of serial, less than 0.99"),
        (104.0, 0.05, "direct: 0.962x of serial, less than 0.99"),
    ],
)
def test_what_cannot_be_told_from_the_bar_does_not_hold(us: float, noise: float, said: str) -> None:
    assert failures(measured(SyntheticPackage("new", [], us=us, noise=noise))) == [said]


def test_what_is_lost_fails_its_row_and_is_not_asked_again() -> None:
    asked: list[Any] = []
    row = measured(SyntheticPackage("new", asked), SyntheticPackage("old", asked, "prepare"))
    assert failures(row) == ["gone"]
    assert asked[-1][:2] == ("new", "drop")
    assert "gone" in table([row])


def test_slower_rows_and_other_bits_do_not_hold() -> None:
    us = {"graph": {"serial": {"median": 98.0}, "new": {"median": 100.0}}}
    row = {"name": "r", "us": us, "sides": {"new": {"wrong": {"graph": 2, "direct": 0}}}}
    assert failures(row) == ["graph: 0.980x of serial, less than 0.99", "graph: other bits in 2 runs"]


def test_pairs_follow_each_other_in_alternating_order_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def sample(function: Callable[[], Any]) -> tuple[float, float]:
        called.append(function())
        return float(len(called)), 0.0

    def serial() -> str:
        return "serial"

    def ours() -> str:
        return "ours"

    found = direct_worker.paired_samples([(serial, ours), (serial, serial)], 4, 100.0, sample)
    assert called[:12] == ["ours", "serial", "serial", "serial", "serial", "ours", "serial", "serial", "ours", *["serial"] * 3]
    # Three uncounted rounds of four samples; then serial is first in the first pair, and second in the second.
    assert [[us for us, _ in own] for own in found[0]] == [[13, 18, 21, 26], [14, 17, 22, 25]]
    assert [[us for us, _ in own] for own in found[1]] == [[15, 20, 23, 28], [16, 19, 24, 27]]
    monkeypatch.setattr(direct_worker, "FEWEST_PAIRS", 2)
    assert [len(own) for own in direct_worker.paired_samples([(serial, ours)], 50, 0.0, sample)[0]] == [2, 2]


class CpuSide(direct_side.Side):
    """A side that calls its function instead of replaying a graph."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        self.function, self.inputs = function, direct_side.copies(values)
        self.capture()

    def capture(self) -> None:
        self.replay()

    def replay(self) -> None:
        self.outputs = direct_side.leaves(self.function(*self.inputs))


@pytest.mark.parametrize(("between", "compiled_in_turn"), [("ours", "-+-"), ("serial", "+-+")])
def test_a_worker_prepares_times_and_drops_a_row(between: str, compiled_in_turn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, order = torch.nn.Linear(4, 4), []

    def inputs(seed: int) -> list[torch.Tensor]:
        return [torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))]

    def compiled(module: Any, backend: Any = "inductor", options: Any = None) -> Callable[..., Any]:
        order.append("-" if backend == "inductor" else "+")
        if backend != "inductor":
            folder = Path(options["dump"]) / "0_inference"
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps({"verdict": "clean", "reason": "", "kernels_serial": 4}))
        return module  # type: ignore[no-any-return]

    monkeypatch.setattr(direct_worker, "made", lambda row: (module, inputs))
    monkeypatch.setattr(direct_worker, "Side", CpuSide)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(direct_worker, "time_calls", lambda function, calls: (float(calls), 0.5))
    row = direct_worker.Row(deterministic=True)
    told = row({"do": "prepare", "row": "any", "between": between})
    assert "".join(order) == compiled_in_turn
    assert (told["verdict"], told["wrong"]) == ("clean", {"graph": 0, "direct": 0})
    samples = row({"do": "pairs", "pairs": 2, "calls": 7, "seconds": 100.0})
    names = [name for pair in direct_worker.PAIRS for name in pair]
    assert samples == {"direct": {name: [7.0] * 2 for name in names}, "host": {name: [0.5] * 2 for name in names}}
    assert row({"do": "replay", "side": "ours", "repeats": 20}) == {"us": 20.0}
    row({"do": "capture"})
    assert row({"do": "drop"}) == {}
    assert not row._sides


def test_a_worker_imports_no_module_of_the_package_that_another_version_may_lack() -> None:
    """What it imports of the package is the backend, when it prepares a row."""
    program = (
        "import sys, direct_worker\nfrom deepseek_workloads import WORKLOADS\nimport more_modules\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'graphstreams'])"
    )
    assert last_line(program) == "[]"
    text = (BENCHMARKS / "direct_worker.py").read_text() + (BENCHMARKS / "direct_side.py").read_text()
    imports = [line.strip() for line in text.splitlines() if "graphstreams" in line and "import" in line.split()]
    assert imports == ["from graphstreams import graphstreams"]


def test_equal_bits_are_those_of_types_shapes_and_values() -> None:
    one = torch.tensor([1.0, float("nan")])
    assert direct_side.equal_bits([one, 3], [one.clone(), 3])
    for other in ([one[:1], 3], [one.double(), 3], [-one, 3], [one, 3.0], [one]):
        assert not direct_side.equal_bits([one, 3], other)


def test_modules_beside_the_examples_run() -> None:
    with torch.no_grad():
        assert [value.shape for value in GatedExperts(8, 2, 3, 4)(torch.zeros(5, 8))] == [(5, 1)] * 3
        assert WideBranches(8, 2, 2)(torch.zeros(5, 8)).shape == (5, 8)


def test_rows_are_those_of_the_bench_and_three_more() -> None:
    assert tuple(direct.ROWS) == (*(name for name in WORKLOADS if "prefill" not in name), *MORE)


@pytest.mark.parametrize("arguments", [["--rounds", "1"], ["--pairs", "29"], ["--baseline", "/nowhere"], ["--rows", "none"]])
def test_arguments_that_are_none_are_refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        direct.parse_args(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert direct.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_whole_course_with_synthetic_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(direct, "environment", lambda: {"device": "?"})
    monkeypatch.setattr(direct, "Package", lambda name, checkout, arguments: SyntheticPackage(name, []))
    options: Mapping[str, str] = {"--baseline": str(ROOT), "--rounds": "5", "--out": str(tmp_path)}
    assert direct.main(["--rows", "wide", *(part for pair in options.items() for part in pair)]) == 1
    (row,) = json.loads((tmp_path / "direct.json").read_text())["rows"]
    assert row["us"]["graph"]["old"]["median"] == 80.0
    assert row["paired"]["old"]["ratio"]["pairs"] == 400
    assert "new/old" in (tmp_path / "direct.md").read_text()
