"""Check the benchmark of a dynamic number of tokens: its arguments, its table and its course. No GPU."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_tokens as bench
import bench_tokens_report as tables
import deepseek_v32
import pytest
import torch

from graphstreams.benchmark import timing
from graphstreams.benchmark.results import largest_report
from graphstreams.runtime import ranks
from tests.support.benchmark_on_cpu import CpuVariant

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here everything is replaced that needs a GPU")

THRESHOLD = {"symbol": "s21", "largest": 6, "smallest": 0, "reason": "each size from 1 to 6 gains 2.0% or more, 7 does not"}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def test_the_command_line_has_defaults() -> None:
    arguments = bench.parse_args([])
    assert (arguments.tp, arguments.tokens, arguments.min_gain, arguments.rounds, arguments.seeds) == (8, None, 0.02, 40, 5)
    assert arguments.out == Path("tokens")


def test_the_command_line_is_read() -> None:
    given = ["--tp", "4", "--tokens", "16", "4", "--min-gain", "0.1", "--rounds", "7", "--seeds", "0", "--out", "x"]
    arguments = bench.parse_args(given)
    assert (arguments.tp, arguments.tokens, arguments.min_gain) == (4, [16, 4], 0.1)
    assert (arguments.rounds, arguments.seeds, arguments.out) == (7, 0, Path("x"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tokens", "4", "1"], "at least 2"),
        (["--rounds", "1"], "at least 2"),
        (["--seeds", "-1"], "at least 0"),
        (["--tp", "3"], "multiple of tp"),
        (["--min-gain", "2"], "min_gain"),
    ],
)
def test_the_command_line_refuses_what_cannot_run(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse_args(given)
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench.main(["--out", str(tmp_path / "x")]) == 2
    assert "CUDA" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("smallest", "largest", "added"),
    [
        (0, 61, {61, 62}),
        (0, 64, {65}),
        (0, None, set()),
        (0, 0, set()),
        (0, 1, {2}),
        (9, 61, {9, 61, 62}),
        (2, None, {2}),
    ],
)
def test_the_sizes_beside_the_threshold_are_added(smallest: int, largest: int | None, added: set[int]) -> None:
    sizes = bench.tokens_around({"smallest": smallest, "largest": largest})
    assert sizes == sorted({4, 8, 16, 32, 64, 128, 256, 512} | added)


def test_without_a_threshold_the_sizes_are_the_given_ones() -> None:
    assert bench.tokens_around(None) == [4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("verdict", "threshold", "expected"),
    [
        ("clean", {"smallest": 0, "largest": 8}, ["streams", "streams", "serial body"]),
        ("clean", {"smallest": 5, "largest": None}, ["serial body", "streams", "streams"]),
        ("clean", {"smallest": 5, "largest": 8}, ["serial body", "streams", "serial body"]),
        ("clean", None, ["streams"] * 3),
        ("serial", {"smallest": 0, "largest": 8}, ["serial"] * 3),
    ],
)
def test_a_call_runs_what_the_report_says(verdict: str, threshold: dict[str, Any] | None, expected: list[str]) -> None:
    report = {"verdict": verdict, "threshold": threshold}
    assert [bench.runs_on(report, tokens) for tokens in (4, 8, 9)] == expected


def times(median: float) -> dict[str, float]:
    return {"median": median, "first_quartile": median - 0.5, "third_quartile": median + 0.5}


def a_row(tokens: int = 4, runs_on: str = "streams", graphs: int = 2) -> dict[str, Any]:
    return {
        "tokens": tokens, "runs_on": runs_on, "graphs": graphs, "wrong": {"graph": 1, "direct": 2},
        "runs": {"graph": 5, "direct": 5}, "graph": {"serial": times(100.0), "graphstreams": times(80.0)},
        "direct": {"serial": times(150.0), "graphstreams": times(200.0)},
    }  # fmt: skip


def a_result(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    names = ("device", "driver", "cuda", "torch", "triton", "python", "date")
    known = {
        "rounds": 40,
        "captures": 5,
        "tp": 8,
        "min_gain": 0.02,
        "compiled_at": 4,
        "verdict": "clean",
        "reason": "",
        "launched_by_the_host": "serial",
        "rows": [*rows],
    }
    return {**{name: f"<{name}>" for name in names}, **known, "threshold": THRESHOLD, **changes}


def test_a_row_has_times_ratios_and_wrong_runs() -> None:
    assert tables.cells(a_row()) == ["4", "streams", "100.0", "80.0", "1.25x", "0.75x", "3 / 10"]


def test_a_row_that_failed_says_why() -> None:
    row = {"tokens": 512, "runs_on": "serial body", "graphs": 2, "failed": "OutOfMemoryError: no | memory"}
    expected = ["512", "serial body", "failed: OutOfMemoryError: no / memory", "-", "-", "-", "-"]
    assert tables.cells(row) == expected


def test_the_report_says_where_and_why() -> None:
    text = tables.tables(a_result(a_row(), a_row(7, "serial body")))
    assert "<device> (driver <driver>)" in text
    assert "40 rounds, both sides in turns, over 5 captures of each; tp 8" in text and "min_gain 0.02" in text
    assert "each size from 1 to 6 gains 2.0% or more, 7 does not." in text
    assert "No number of tokens was compiled again." in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == list(tables.HEADERS)
    assert len(table) == 4


def test_the_report_tells_of_graphs_that_were_compiled_again() -> None:
    result = a_result(a_row(), a_row(512, graphs=2), a_row(911, graphs=4))
    assert tables.graphs_told(result) == "4 graphs were compiled, not 2: from 911 tokens on, `runs on` need not hold."


def test_the_report_says_why_a_graph_stays_serial() -> None:
    result = a_result(verdict="serial", reason="no number of tokens gains enough", threshold=None)
    expected = "Compiled with 4 tokens; verdict: serial: no number of tokens gains enough. It has no threshold."
    assert tables.told(result) == expected


@pytest.mark.parametrize(
    ("direct", "expected"),
    [
        ("serial", "Launched by the host every number of tokens runs the serial body."),
        ("streams", "Launched by the host the same body runs as in a CUDA graph."),
    ],
)
def test_the_report_says_which_body_the_host_launches(direct: str, expected: str) -> None:
    assert tables.told(a_result(launched_by_the_host=direct)).endswith(f" {expected}")


def test_the_report_on_the_largest_graph_counts(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no graph"):
        largest_report(tmp_path)
    for name, kernels in (("0_a", 3), ("1_b", 30), ("2_c", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"kernels_serial": kernels}))
    assert largest_report(tmp_path) == (tmp_path / "1_b", {"kernels_serial": 30})


def test_the_report_of_a_rank_is_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "current_rank", lambda: 1)
    for rank in range(2):
        (tmp_path / f"rank{rank}" / "0_a").mkdir(parents=True)
        (tmp_path / f"rank{rank}" / "0_a" / "report.json").write_text(json.dumps({"kernels_serial": rank}))
    assert largest_report(tmp_path) == (tmp_path / "rank1" / "0_a", {"kernels_serial": 1})


compile_graph = torch.compile  # torch's own


class Compiler:
    """Compiles by Dynamo without Inductor; graphstreams leaves a report. `wrong`: other values from 7 tokens on."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.wrong = self.branches = False

    def __call__(self, module: Any, backend: str = "inductor", options: Any = None) -> Callable[..., Any]:
        self.options.append(dict(options))
        if backend == "inductor":
            return compile_graph(module, backend=lambda graph, _: graph)
        folder = Path(options["dump"]) / "0_inference"
        folder.mkdir()
        report = {"verdict": "clean", "reason": "", "kernels_serial": 30, "threshold": THRESHOLD}
        report["launched_by_the_host"] = "serial"
        (folder / "report.json").write_text(json.dumps(report))
        # A backend of its own, as each side has: Dynamo keeps graphs by backend.
        function = compile_graph(self.branching(module), backend=lambda graph, _: graph)
        return lambda *values: function(*values) + (self.wrong and len(values[0]) > 6)

    def branching(self, module: Any) -> Callable[..., Any]:
        """With `branches`, of which Dynamo makes a graph each: up to 6 tokens, and from 7 on."""

        def branches(*values: Any) -> Any:
            return -module(*values).neg() if len(values[0]) > 6 else module(*values)

        return branches if self.branches else module


def timed_by(monkeypatch: pytest.MonkeyPatch, times: Callable[..., list[list[float]]]) -> None:
    """Captured or launched directly, `times` tells how long functions take in turns."""
    for module in (bench, timing):
        monkeypatch.setattr(module, "times_in_turns", times)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Replace in the benchmark what needs a GPU: serial takes 30 us, ours 20 us a call."""
    made = Compiler()
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    monkeypatch.setattr(bench, "Config", functools.partial(deepseek_v32.Config.tiny, dtype=torch.float32))
    monkeypatch.setattr(bench, "CompiledVariant", CpuVariant)
    monkeypatch.setattr(bench, "environment", lambda: dict.fromkeys(bench_environment(), "?"))
    timed_by(monkeypatch, lambda functions, rounds, repeats, *_: [[30.0] * rounds, [20.0] * rounds])
    monkeypatch.setattr(torch, "compile", made)
    return made


class Small(torch.nn.Module):
    """A layer that Dynamo traces at once."""

    def forward(self, hidden: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return hidden.sin()


@pytest.fixture
def small_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "build", lambda *_: Small())


def bench_environment() -> Sequence[str]:
    return ("device", "driver", "cuda", "torch", "triton", "python", "date", "command")


def run(tmp_path: Path, *given: str) -> dict[str, Any]:
    bench.run(bench.parse_args(["--tp", "2", "--rounds", "3", "--seeds", "2", "--out", str(tmp_path), *given]))
    return json.loads((tmp_path / "tokens.json").read_text())  # type: ignore[no-any-return]


def test_one_compile_serves_all_numbers_of_tokens(
    compiler: Compiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path, "--tokens", "5", "3", "7", "6", "--min-gain", "0.1")
    assert [row["tokens"] for row in result["rows"]] == [3, 5, 6, 7]
    assert [row["runs_on"] for row in result["rows"]] == ["streams"] * 3 + ["serial body"]
    # Dynamo itself counted: the clones that are run are not marked as dynamic, and need no other graph.
    assert [row["graphs"] for row in result["rows"]] == [2] * 4
    for row in result["rows"]:
        assert (row["wrong"], row["runs"]) == ({"graph": 0, "direct": 0}, {"graph": 2, "direct": 2})
        assert row["graph"]["serial"]["median"] == row["direct"]["serial"]["median"] == 30.0
    assert (result["compiled_at"], result["threshold"]["largest"], result["min_gain"]) == (5, 6, 0.1)
    serial, ours = compiler.options
    assert serial == {"deterministic": True}
    assert {name: ours[name] for name in ("min_gain", "inductor")} == {"min_gain": 0.1, "inductor": serial}
    assert set(ours) == {"min_gain", "inductor", "dump"}
    assert "| 7        | serial body | 30.0        | 20.0              | 1.50x" in (tmp_path / "tokens.md").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "compiled after" in lines[0]
    assert "tokens: 7, runs on: serial body" in lines[4] and lines[4].endswith("wrong runs / runs: 0 / 4")


@pytest.mark.usefixtures("small_layer")
def test_by_default_the_threshold_is_between_two_sizes(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "TOKENS", (4, 8))
    result = run(tmp_path)
    assert [row["tokens"] for row in result["rows"]] == [4, 6, 7, 8]
    assert result["compiled_at"] == 4


@pytest.mark.usefixtures("small_layer")
def test_other_values_are_counted_as_wrong(compiler: Compiler, tmp_path: Path) -> None:
    compiler.wrong = True
    result = run(tmp_path, "--tokens", "6", "7")
    assert [row["wrong"] for row in result["rows"]] == [{"graph": 0, "direct": 0}, {"graph": 2, "direct": 2}]


@pytest.mark.usefixtures("small_layer")
def test_graphs_that_are_compiled_again_are_told(compiler: Compiler, tmp_path: Path) -> None:
    compiler.branches = True
    result = run(tmp_path, "--tokens", "4", "5", "7", "8")
    assert [row["graphs"] for row in result["rows"]] == [2, 2, 3, 3]
    assert "3 graphs were compiled, not 2: from 7 tokens on" in (tmp_path / "tokens.md").read_text()


@pytest.mark.usefixtures("small_layer")
@pytest.mark.filterwarnings("ignore")
def test_a_number_of_tokens_that_fails_stops_no_other(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variant(function: Callable[..., Any], values: Sequence[Any]) -> CpuVariant:
        if len(values[0]) == 5:
            raise torch.OutOfMemoryError("too large")
        return CpuVariant(function, values)

    monkeypatch.setattr(bench, "CompiledVariant", variant)
    result = run(tmp_path, "--tokens", "4", "5", "6")
    assert [row.get("failed") for row in result["rows"]] == [None, "OutOfMemoryError: too large", None]
    assert "failed: OutOfMemoryError: too large" in (tmp_path / "tokens.md").read_text()


@pytest.mark.usefixtures("small_layer")
def test_both_sides_are_timed_on_the_same_first_inputs(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def timed(functions: Sequence[Any], rounds: int, repeats: int, *_: Any) -> list[list[float]]:
        seen.append((repeats, [function.__self__.inputs[0] for function in functions]))
        return [[1.0] * rounds for _ in functions]

    timed_by(monkeypatch, timed)
    run(tmp_path, "--tokens", "4")
    hidden = deepseek_v32.example_inputs(deepseek_v32.Config.tiny(tp=2, tokens=4, dtype=torch.float32), "cpu", 0)[0]
    assert [repeats for repeats, _ in seen] == [
        20,
        20,
        20,
        5,
    ]  # three rounds, each on a capture of its own; then launched directly
    assert all(torch.equal(values, hidden) for _, sides in seen for values in sides)


def test_the_exit_status_tells_whether_anything_was_measured(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    given = ["--tp", "2", "--tokens", "4", "--rounds", "2", "--seeds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(bench, "run", lambda arguments: {**a_result(a_row()), "seconds": 3.0})
    assert bench.main(given) == 0
    failed = {"tokens": 4, "runs_on": "streams", "graphs": 2, "failed": "RuntimeError: no"}
    monkeypatch.setattr(bench, "run", lambda arguments: {**a_result(failed), "seconds": 3.0})
    assert bench.main(given) == 1
