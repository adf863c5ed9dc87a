"""Check `graphstreams bench MODULE:FUNCTION` from the command line to its tables. What needs a GPU is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graphstreams.__main__ import main
from graphstreams.benchmark import compile_variants, results
from graphstreams.command_line import bench
from tests.support.benchmark_on_cpu import ENVIRONMENT, CpuReplayer, replace_gpu

MODEL = """
import torch
from beside import WIDTH
from graphstreams.planning.paths import Assignment

class Two(torch.nn.Module):
    def forward(self, x):
        return x + 1, x * 2

def make(tokens):
    if tokens > 100:
        raise MemoryError("too many tokens")
    return Two(), lambda seed: [torch.full((tokens, WIDTH), float(seed))]

def alone(tokens):
    return Two()

def by_hand(module, settings):
    assert settings in ({"deterministic": True}, {"deterministic": False})
    return module

def failing(module, settings):
    raise RuntimeError("no streams here")

POLICIES = {"all on one": lambda graph, us, shares: Assignment(list(range(len(us))), [0] * len(us))}
"""


@pytest.fixture
def replayer(monkeypatch: pytest.MonkeyPatch) -> CpuReplayer:
    monkeypatch.setattr(results, "environment", lambda: ENVIRONMENT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return replace_gpu(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file that imports another one beside it."""
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "model_of_benching.py").write_text(MODEL)
    return tmp_path / "model_of_benching.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["bench", *map(str, arguments), "--rounds", "2", "--replays", "3"])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def variants(monkeypatch: pytest.MonkeyPatch, **chosen: Any) -> None:
    """Let the stand-in of the compiler give other bits with search, and fail with measured times."""
    monkeypatch.setattr("graphstreams.benchmark.variants.OWN_VARIANTS", chosen)


ROOFLINE = {"roofline": {"costs": "roofline", "search": 0}}


def test_variants_policies_and_ours_stand_in_one_table(
    replayer: CpuReplayer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, **ROOFLINE)
    rivals = "--rival", f"by hand = {model}:by_hand", "--rival", f"other={model}:failing"
    status, out, err = run(capsys, f"{model}:make", "--batch", "1,16", *rivals, "--out", tmp_path / "out")
    assert status == 0
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["passes"]["deterministic"]
    assert [row["title"] for row in rows] == ["1 token", "16 tokens"]
    for row in rows:
        assert "failed" not in row
        found = row["rivals"]
        assert found["by hand"]["wrong"] == {"graph": 0, "direct": 0}
        assert found["other"]["failed"] == "RuntimeError: no streams here"
        assert found["graphstreams: roofline"]["runs"] == {"graph": 3, "direct": 3}
        assert {"played: serial", "played: Nimble", "played: graphstreams, roofline"} < set(found)
    assert (tmp_path / "out" / "bench.md").read_text() == out.removesuffix("\n")
    header = next(line for line in out.splitlines() if line.startswith("| workload"))
    assert [cell.strip() for cell in header.strip("|").split("|")][:4] == ["workload", "serial us", "by hand", "other"]
    (first, _) = (line for line in err.splitlines() if line.startswith("["))
    assert "1 token: serial 10.0 us; by hand 0.91x" in first


def test_other_bits_of_ours_are_a_failure(
    replayer: CpuReplayer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, search={"costs": "measured"})
    status, out, _ = run(capsys, f"{model}:make")
    assert (status, "graph 3/3" in out) == (1, True)


def test_a_variant_of_ours_that_fails_is_a_failure(
    replayer: CpuReplayer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, measured={"costs": "measured", "search": 0})
    status, out, _ = run(capsys, f"{model}:make", "--settings", "default")
    assert (status, "no measuring here" in out) == (1, True)


def test_a_number_of_tokens_that_fails_stops_no_other(
    replayer: CpuReplayer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, **ROOFLINE)
    status, out, _ = run(capsys, f"{model}:make", "--batch", "101,2")
    assert status == 1
    assert "failed: MemoryError: too many tokens" in out
    assert any(line.startswith("| 2 tokens") and "10.0" in line for line in out.splitlines())


def test_a_function_that_returns_something_else_says_so(
    replayer: CpuReplayer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, f"{model}:alone")
    assert (status, "(module, seed -> inputs) has to be returned by" in out) == (1, True)


def test_policies_are_replayed_only_where_bits_are_compared(
    replayer: CpuReplayer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, **ROOFLINE)
    status, out, _ = run(capsys, f"{model}:make", "--policies", f"{model}:POLICIES", "--settings", "both")
    assert status == 0
    assert len(replayer.plans) == 2 * 2  # ours and the one policy, a capture in each of two rounds
    assert "all on one" in out and "Nimble" not in out
    status, out, _ = run(capsys, f"{model}:make", "--policies", "none")
    assert status == 0 and "all on one" not in out and "Nimble" not in out


def test_a_module_of_several_graphs_has_no_policies(
    replayer: CpuReplayer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(monkeypatch, **ROOFLINE)
    monkeypatch.setattr(compile_variants, "replayable_graphs", lambda *_: [None, None])
    status, out, _ = run(capsys, f"{model}:make")
    assert status == 0
    assert "policies are played on modules of one graph, and this one has 2" in out


def test_outside_a_checkout_there_are_no_policies_of_other_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(bench.policies_of(None)) >= {"TensorRT-LLM", "torchsched", "Opara", "Nimble"}
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    assert bench.policies_of(None) == {}
    (tmp_path / "examples").mkdir()  # somebody else's, beside an installed package
    (tmp_path / "examples" / "peers.py").write_text("POLICIES = {}\n")
    assert bench.policies_of(None) == {}


@pytest.mark.parametrize("name", ["serial", "graphstreams, search"])
def test_a_policy_takes_no_name_of_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / "names_of_benching.py").write_text(f"POLICIES = {{{name!r}: print}}\n")
    with pytest.raises(ValueError, match=f"the name '{name}' is taken"):
        bench.policies_of(f"{tmp_path}/names_of_benching.py:POLICIES")


def test_a_place_that_can_be_no_folder_is_told_before_anything_runs(
    replayer: CpuReplayer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, f"{model}:make", "--out", model)
    assert (status, out) == (2, "")
    assert "model_of_benching.py" in err and len(err.splitlines()) == 1


def test_nothing_of_ours_is_no_success() -> None:
    assert not results.sound([])


def test_without_a_gpu_it_says_so_before_it_compiles(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, out, err = run(capsys, f"{model}:make")
    assert (status, out) == (2, "")
    assert err == "graphstreams bench: comparing times needs a CUDA device, and there is none here\n"


def test_a_function_that_exits_fails_in_its_row(
    replayer: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "leaving_of_benching.py"
    path.write_text("import sys\n\n\ndef make(tokens):\n    sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)  # a row has room for a short name
    status, out, _ = run(capsys, f"{path.name}:make", "--batch", "2", "--policies", "none")
    assert status == 1
    assert "make exits with 0" in out
