"""Check the command line, the course of the benchmark with its GPU replaced, and the tables. No GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_decoder
import decoder_report
import deepseek_model as example
import pytest
import torch
from deepseek_cases import CASES, DEFAULT, Case, looped
from deepseek_decoder import Config, build
from process_group import Ranks

from graphstreams.autotuning.cuda_graph import clones, leaves
from graphstreams.benchmark import timing
from tests.support.benchmark_on_cpu import ENVIRONMENT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is replaced")

TINY = Config.tiny("v32", layers=1, dtype=torch.float32)
US = {"serial": 100.0, "graphstreams": 80.0, "by hand: both": 90.0}


class CpuDecoding(bench_decoder.DecodingVariant):
    """A variant that calls its function instead of replaying a graph."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Any], steps: int) -> None:
        self.steps, self.function, self.inputs = steps, function, clones(values)
        self.replay()

    def capture_again(self) -> None:
        """Do nothing: there is no graph."""

    def replay(self) -> None:
        self.outputs = leaves(self.function(*self.inputs))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Any]]:
    """Replace what needs a GPU. Return what compiles functions by the backend, to be changed by a test."""
    backends: dict[str, Callable[..., Any]] = {"inductor": lambda function: function, "graphstreams": lambda function: function}

    def compile_on_cpu(function: Any, backend: str = "inductor", options: Any = None, **_: Any) -> Any:
        if backend == "graphstreams":
            folder = Path(options["dump"]) / "0_inference"
            folder.mkdir(exist_ok=True)
            report = {
                **dict.fromkeys(bench_decoder.REPORTED),
                "verdict": "clean",
                "reason": "",
                "kernels_serial": 9,
                "notes": [],
            }
            (folder / "report.json").write_text(json.dumps(report))
        return backends[backend](function)

    def times(functions: Sequence[Any], rounds: int, repeats: int, clock: Any) -> list[list[float]]:
        for function in functions:
            clock(function, 2)
        return [[us] * rounds for us in list(US.values())[: len(functions)]]

    monkeypatch.setattr(torch, "compile", compile_on_cpu)
    monkeypatch.setattr(bench_decoder, "DecodingVariant", CpuDecoding)
    monkeypatch.setattr(bench_decoder, "DEVICE", "cpu")
    monkeypatch.setattr(bench_decoder, "device_us", lambda function, repeats: [function() for _ in range(repeats)] and 50.0)
    monkeypatch.setattr(timing, "times_in_turns", times)
    monkeypatch.setattr(example, "environment", lambda: dict(ENVIRONMENT))
    monkeypatch.setattr(bench_decoder, "release", lambda: None)
    return backends


def arguments(tmp_path: Path, *more: str) -> argparse.Namespace:
    return example.parse_args(["--bench", "--out", str(tmp_path), "--rounds", "3", "--replays", "2", *more])


def benched(tmp_path: Path, case: Case, *more: str, ranks: Ranks | None = None) -> tuple[bool, dict[str, Any]]:
    """Whether the benchmark was sound, and what it wrote."""
    sound = example.bench({"tiny": case}, ranks or Ranks(), arguments(tmp_path, *more))
    return sound, json.loads((tmp_path / "model.json").read_text())


@pytest.mark.parametrize("case", [Case(TINY), looped(TINY)], ids=["layer", "loop"])
@pytest.mark.parametrize("how", ["whole", "layers"])
def test_a_case_is_measured_and_written(on_cpu: Any, tmp_path: Path, case: Case, how: str) -> None:
    sound, result = benched(tmp_path, case, "--compile", how)
    assert sound
    (row,) = result["rows"]
    assert list(row["rivals"]) == list(US)
    assert {name: record["graph"]["median"] for name, record in row["rivals"].items()} == US
    assert [(each["wrong"], each["runs"]) for name, each in row["rivals"].items() if name != "serial"] == [(0, 2)] * 2
    text = (tmp_path / "model.md").read_text()
    assert "100.0 (100.0-100.0)" in text and "1.250x" in text and "1.111x" in text


def test_other_bits_are_counted_and_not_sound(on_cpu: Any, tmp_path: Path) -> None:
    on_cpu["graphstreams"] = lambda function: lambda *values: function(*values) + 1
    sound, result = benched(tmp_path, Case(TINY))
    assert not sound
    records = result["rows"][0]["rivals"]
    assert (records["graphstreams"]["wrong"], records["by hand: both"]["wrong"]) == (2, 0)
    assert records["graphstreams"]["difference"] > 0


def test_other_caches_are_other_bits(on_cpu: Any, tmp_path: Path) -> None:
    def compiled(function: Any) -> Any:
        def run(*values: Any) -> Any:
            outputs = function(*values)
            values[-1][0, 0] += 1
            return outputs

        return run

    on_cpu["graphstreams"] = compiled
    assert benched(tmp_path, Case(TINY))[1]["rows"][0]["rivals"]["graphstreams"]["wrong"] == 2


@pytest.mark.filterwarnings("ignore")
def test_a_variant_that_fails_stops_no_other(on_cpu: Any, tmp_path: Path) -> None:
    def failing(_: Any) -> Any:
        raise RuntimeError("no streams")

    on_cpu["graphstreams"] = failing
    sound, result = benched(tmp_path, Case(TINY))
    assert not sound
    records = result["rows"][0]["rivals"]
    assert records["graphstreams"]["failed"] == "RuntimeError: no streams"
    assert records["by hand: both"]["wrong"] == 0 and "graph" in records["by hand: both"]


@pytest.mark.filterwarnings("ignore")
def test_serial_that_fails_fails_the_case(on_cpu: Any, tmp_path: Path) -> None:
    def failing(_: Any) -> Any:
        raise RuntimeError("no compiler")

    on_cpu["inductor"] = failing
    sound, result = benched(tmp_path, Case(TINY))
    assert not sound
    assert "no compiler" in result["rows"][0]["failed"]
    assert "failed: RuntimeError: no compiler" in (tmp_path / "model.md").read_text()


class TwoRanks(Ranks):
    """Rank 0 of two, whose other rank failed to compile one variant, had one run of other bits, and was slower."""

    def gathered(self, value: Any) -> list[Any]:
        if value is None:
            return [None, self.failing.pop(0) if self.failing else None]
        other = value + 1 if isinstance(value, int) else [us + 7 for us in value] if isinstance(value, list) else value
        return [value, other]

    failing: list[str | None] = []  # noqa: RUF012


def test_ranks_agree_on_failures_bits_and_times(on_cpu: Any, tmp_path: Path) -> None:
    ranks = TwoRanks(0, 2)
    # After serial, and after graphstreams: serial's record, graphstreams'.
    TwoRanks.failing[:] = [None, None, None, None, None, "RuntimeError: elsewhere"]
    sound, result = benched(tmp_path, Case(TINY), ranks=ranks)
    assert not sound  # graphstreams had other bits
    (row,) = result["rows"]
    assert row["rivals"]["by hand: both"]["failed"] == "on rank 1: RuntimeError: elsewhere"
    assert row["rivals"]["serial"]["graph"]["median"] == 107.0
    assert row["rivals"]["graphstreams"] | {"wrong": 1, "runs": 4} == row["rivals"]["graphstreams"]


def test_only_rank_0_prints_and_writes(on_cpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.bench({"tiny": Case(TINY)}, Ranks(1, 1), arguments(tmp_path))
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def row(**changes: Any) -> dict[str, Any]:
    times = {name: {"median": us, "first_quartile": us - 1, "third_quartile": us + 1} for name, us in US.items()}
    rivals = {name: {"graph": each, **({} if name == "serial" else {"wrong": 0, "runs": 40, "difference": 0.0})}
              for name, each in times.items()}  # fmt: skip
    rivals["graphstreams"]["verdict"] = "clean"
    whole = {
        "name": "v32-loop-4",
        "title": "four",
        "model": "V3.2",
        "layers": 4,
        "ranks": 2,
        "all_reduce_us": 5.0,
        "seconds": 1.0,
    }
    return {**whole, "rivals": rivals, **changes}


def test_the_whole_model_is_as_many_of_the_measured_layers() -> None:
    assert decoder_report.whole_us(row(), "serial") == 100.0 / 4 * 61
    assert decoder_report.whole_us(row(model="V4-Flash"), "graphstreams") == 80.0 / 4 * 43
    assert decoder_report.whole_us(row(), "none") is None


def test_other_ranks_have_other_all_reduces() -> None:
    # Eight of them in four layers, each 7 us longer.
    assert decoder_report.on_other_ranks_us(row(), "serial", 12.0) == 156.0
    assert decoder_report.on_other_ranks_us(row(all_reduce_us=None), "graphstreams", 12.0) == 176.0
    cells = decoder_report.whole_model_cells(row(), 12.0)
    assert cells == ["four", "61", "1.52", "1.37", "1.22", "5.0", "156.0", "1.147x"]


def test_a_case_has_its_times_ratios_and_bits() -> None:
    cells = decoder_report.speed_cells(row())
    assert cells == ["four", "2", "100.0 (99.0-101.0)", "90.0 (89.0-91.0)", "80.0 (79.0-81.0)", "1.111x", "1.250x", "clean"]
    assert decoder_report.bits_cells(row()) == [["four", name, "0 / 40", "-"] for name in ("graphstreams", "by hand: both")]


def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--bench"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_command_line_plans_rank_0_of_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    example.main(["--tiny", "--tp", "2", "--dump", str(tmp_path)])
    out = capsys.readouterr().out
    assert "V3.2, 1 layer, TP 2 shapes, [3], bf16, 8 experts, rank 0 of 2" in out
    assert "planned for" in out
    assert "all_reduce" in out
    assert not torch.distributed.is_initialized()


def test_the_command_line_puts_a_case_together() -> None:
    arguments = example.parse_args(["--model", "v4", "--kinds", "csa", "hca", "--layers", "3", "--loop", "--experts", "16"])
    case = arguments.found["own"]
    assert [each.kind for each in case.config.attention] == ["csa", "hca", "csa"]
    assert case.config.experts.experts == 16 and case.config.head and case.loop
    assert case.title == "V4-Flash CSA+HCA+CSA, 3 layers, TP 8 shapes, [1], bf16, 16 experts, decode loop"


def test_defaults_and_names_are_cases() -> None:
    assert list(example.parse_args(["--bench"]).found) == DEFAULT
    assert list(example.parse_args([]).found) == DEFAULT[:1]
    assert example.parse_args(["--cases", "v32-32-fp8"]).found == {"v32-32-fp8": CASES["v32-32-fp8"]}
    (fewer,) = example.parse_args(["--cases", "v32-32", "--experts", "64", "--products", "batched"]).found.values()
    assert fewer.config.experts == replace(CASES["v32-32"].config.experts, experts=64, products="batched")


@pytest.mark.parametrize(
    "argv",
    [
        ["--cases", "none"],
        ["--cases", "v32-1", "--loop"],
        ["--experts", "3"],
        ["--model", "v4", "--fp8"],
        ["--tp", "3"],
        ["--set", "deterministic"],
        ["--rounds", "1"],
    ],
)
def test_arguments_that_do_not_fit_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        example.parse_args(argv)


def test_settings_are_python_literals() -> None:
    arguments = example.parse_args(["--set", "combo_kernels=True", "--set", "max_autotune_gemm_backends='ATEN'"])
    assert dict(arguments.set) == {"combo_kernels": True, "max_autotune_gemm_backends": "ATEN"}


def test_titles_tell_cases_apart() -> None:
    cases = [*CASES.values(), Case(replace(Config.v32(), experts=replace(Config.v32().experts, products="batched")))]
    assert len({case.title for case in cases}) == len(cases)
    assert build(CASES["v32-1"].config, "meta").config.first.tp == 8


@pytest.mark.filterwarnings("ignore")
def test_streams_by_hand_may_round_otherwise_or_fail(on_cpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding(decoder: Any, *_: Any) -> Any:
        return lambda *values: decoder(*values) * 1.001

    monkeypatch.setattr(bench_decoder, "by_hand", rounding)
    sound, result = benched(tmp_path, Case(TINY))
    assert sound and result["rows"][0]["rivals"]["by hand: both"]["wrong"] == 2

    def failing(*_: Any) -> Any:
        raise RuntimeError("no streams here")

    monkeypatch.setattr(bench_decoder, "by_hand", failing)
    sound, result = benched(tmp_path, Case(TINY))
    assert sound and result["rows"][0]["rivals"]["by hand: both"]["failed"] == "RuntimeError: no streams here"
