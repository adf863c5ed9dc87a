"""Check what a benchmark says of bits and times. No GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphstreams.autotuning.cuda_graph import leaves
from graphstreams.benchmark import timing
from graphstreams.benchmark.bits import compare_reduce_overhead, difference
from graphstreams.benchmark.run import run_workload
from graphstreams.benchmark.timing import summary, time_in_turns
from graphstreams.benchmark.variants import BenchmarkSpec, WorkloadRun
from tests.support.benchmark_on_cpu import CpuVariant, replace_gpu


def test_samples_become_a_median_and_quartiles() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == {"median": 4.0, "first_quartile": 2.0, "third_quartile": 6.0}


def test_a_difference_is_relative_and_counts_unequal_integers() -> None:
    numbers, slots = torch.tensor([1.0, -4.0]), torch.tensor([1, 2, 3, 4])
    assert difference([numbers, slots], [numbers, slots]) == 0.0
    assert difference([numbers], [torch.tensor([1.0, -4.5])]) == 0.125
    assert difference([slots], [torch.tensor([1, 2, 3, 5])]) == 0.25
    assert difference([numbers], [torch.tensor([float("nan"), -4.0])]) == float("inf")


@pytest.mark.parametrize(
    "other",
    [[], [torch.ones(3)], [torch.ones(2, dtype=torch.int64)], [torch.ones(2), torch.ones(2)], [1.0]],
    ids=["fewer", "shape", "dtype", "more", "type"],
)
def test_values_that_cannot_be_compared_are_infinitely_apart(other: list[Any]) -> None:
    assert difference([torch.ones(2)], other) == float("inf")
    assert difference([3, torch.ones(2)], [3, torch.ones(2)]) == 0.0


def changed(change: Callable[[list[Any], int], Any]) -> Any:
    """Return a compiler whose function returns what `change` makes of the module's outputs and the number of the call."""

    def make(module: torch.nn.Module, settings: Any) -> Any:
        calls = iter(range(1000))
        return lambda *values: change(list(leaves(module(*values))), next(calls))

    return make


def fewer(outputs: list[Any], call: int) -> Any:
    return outputs[:1]


def shorter(outputs: list[Any], call: int) -> Any:
    return [output[:1] for output in outputs]


def late(outputs: list[Any], call: int) -> Any:
    if call > 6:
        raise RuntimeError("late")
    return outputs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "failed"), [(fewer, ""), (shorter, ""), (late, "RuntimeError: late")])
def test_a_bad_variant_spoils_no_other_result(monkeypatch: pytest.MonkeyPatch, change: Any, failed: str) -> None:
    replace_gpu(monkeypatch)
    own = {"roofline": {"costs": "roofline", "search": 0}}

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x + 1, x * 2

    compilers = {"bad": changed(change), "good": lambda module, settings: module}
    spec = BenchmarkSpec(compilers, policies={}, rounds=2, replays=4, own=own)
    row = run_workload("w", lambda: (Two(), lambda seed: [torch.full((4,), float(seed))]), spec)
    assert "failed" not in row
    for name in ("serial", "good", "graphstreams: roofline"):
        assert row["rivals"][name]["direct"]["median"] > 0
    bad = row["rivals"]["bad"]
    assert bad.get("failed", "") == failed
    if not failed:
        assert bad["wrong"] == {"graph": 4, "direct": 4}
        assert bad["difference"] == float("inf")


def timed_by_place(asked: list[int]) -> Any:
    """Let variant i take 10 i + n us in capture n, counted from 1; launched by the host each takes 1 us."""

    def times(functions: list[Any], rounds: int, repeats: int, clock: Any = None) -> list[list[float]]:
        if clock is timing.host_us:
            return host_times(functions, rounds, repeats)
        if repeats == timing.DIRECT_REPEATS:
            return [[1.0] * rounds for _ in functions]
        asked.append(rounds)
        return [[10.0 * place + len(asked)] * rounds for place, _ in enumerate(functions)]

    return times


def host_times(functions: list[Any], rounds: int, repeats: int) -> list[list[float]]:
    """Let the host take 2 us more for each variant than for the one before."""
    assert repeats == 1
    return [[2.0 * place] * rounds for place, _ in enumerate(functions)]


@pytest.mark.parametrize(("rounds", "of_captures"), [(40, [8] * 5), (7, [2, 2, 1, 1, 1]), (3, [1, 1, 1])])
def test_each_graph_is_captured_a_few_times_and_timed_in_all_rounds(
    monkeypatch: pytest.MonkeyPatch, rounds: int, of_captures: list[int]
) -> None:
    compiled = {name: CpuVariant(lambda x: x + 1, [torch.zeros(2)]) for name in ("serial", "hand: one")}
    made: list[str] = []
    asked: list[int] = []

    def play() -> Any:
        made.append("played")
        return compiled["serial"]

    monkeypatch.setattr(timing, "times_in_turns", timed_by_place(asked))
    run = WorkloadRun({name: {} for name in (*compiled, "played: p")}, dict(compiled), {"played: p": play})
    time_in_turns(run, [torch.ones(2)], rounds)
    assert asked == of_captures and sum(asked) == rounds
    # The first capture is there already, and its bits were compared; what is played has none yet.
    assert [each.captures for each in compiled.values()] == [len(asked) - 1] * 2 and len(made) == len(asked)
    for place, name in enumerate((*compiled, "played: p")):
        samples = [10.0 * place + number + 1 for number, own in enumerate(of_captures) for _ in range(own)]
        assert run.records[name]["graph"] == summary(samples)
    assert [run.records["hand: one"][way]["median"] for way in ("direct", "host")] == [1.0, 2.0]
    assert not {"direct", "host"} & set(run.records["played: p"])


def test_what_can_be_captured_no_more_is_left_out_and_the_others_keep_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variant of each kind fails at its third capture; those around them are timed in all five."""

    class Failing(CpuVariant):
        def capture_again(self) -> None:
            super().capture_again()
            if self.captures == 2:
                raise RuntimeError("no memory")

    compiled = {
        name: kind(lambda x: x + 1, [torch.zeros(2)])
        for name, kind in (("serial", CpuVariant), ("hand: bad", Failing), ("hand: good", CpuVariant))
    }
    captures = iter([compiled["serial"]] * 2)
    played = {"played: bad": lambda: next(captures), "played: good": lambda: compiled["serial"]}
    asked: list[int] = []
    monkeypatch.setattr(timing, "times_in_turns", timed_by_place(asked))
    run = WorkloadRun({name: {} for name in (*compiled, *played)}, dict(compiled), dict(played))
    time_in_turns(run, [torch.ones(2)], 5)
    assert asked == [1] * 5
    for name, places in (("serial", [0] * 5), ("hand: good", [2, 2, 1, 1, 1]), ("played: good", [4, 4, 2, 2, 2])):
        samples = [10.0 * place + number + 1 for number, place in enumerate(places)]
        assert run.records[name]["graph"] == summary(samples)
    assert run.records["hand: bad"]["failed"] == "RuntimeError: no memory"
    assert run.records["played: bad"]["failed"].startswith("StopIteration")
    assert not any("graph" in run.records[name] for name in ("hand: bad", "played: bad"))


@pytest.mark.parametrize(("change", "wrong"), [(lambda outputs, call: outputs, 0), (shorter, 3)])
def test_runs_under_inductors_own_cuda_graphs_are_compared_too(
    monkeypatch: pytest.MonkeyPatch, change: Any, wrong: int
) -> None:
    asked: list[Any] = []

    def compiled(module: Any, backend: str, options: Any) -> Any:
        asked.append((backend, options["search"], options["inductor"]))
        return changed(change)(module, {})

    monkeypatch.setattr(torch, "compile", compiled)
    module = torch.nn.Identity()
    both = {name: CpuVariant(module, [torch.zeros(2)]) for name in ("serial", "graphstreams: a")}
    run = WorkloadRun({"graphstreams: a": {"wrong": {}, "runs": {}, "difference": 0.0}}, both)
    spec = BenchmarkSpec(reduce_overhead_runs=3, own={"a": {"search": 0}, "failed before": {}})
    compare_reduce_overhead(run, module, lambda seed: [torch.full((2,), float(seed))], spec, {"deterministic": True})
    record = run.records["graphstreams: a"]
    assert asked == [("graphstreams", 0, {"deterministic": True, "triton.cudagraphs": True})]
    assert (record["wrong"], record["runs"]) == ({"reduce-overhead": wrong}, {"reduce-overhead": 3})
