"""What a contest says of bits and times. No GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graphstreams.contest.results import summary
from graphstreams.contest.rivals import Contest
from graphstreams.contest.running import difference, run_workload
from graphstreams.runtime.captured import leaves

sys.path.insert(0, str(Path(__file__).parent))
from on_cpu import take_the_place_of_a_gpu


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


def rival(change: Callable[[list[Any], int], Any]) -> Any:
    """A maker whose function returns what `change` makes of the module's outputs and the number of the call."""

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
def test_a_bad_rival_spoils_nobody_elses_result(monkeypatch: pytest.MonkeyPatch, change: Any, failed: str) -> None:
    take_the_place_of_a_gpu(monkeypatch)
    variants = {"roofline": {"costs": "roofline", "search": 0}}
    monkeypatch.setattr("graphstreams.contest.entering.VARIANTS", variants)

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x + 1, x * 2

    contest = Contest({"bad": rival(change), "good": lambda module, settings: module}, rounds=2, replays=4)
    row = run_workload("w", lambda: (Two(), lambda seed: [torch.full((4,), float(seed))]), contest)
    assert "failed" not in row
    for name in ("serial", "good", "graphstreams: roofline"):
        assert row["rivals"][name]["direct"]["median"] > 0
    bad = row["rivals"]["bad"]
    assert bad.get("failed", "") == failed
    if not failed:
        assert bad["wrong"] == {"graph": 4, "direct": 4}
        assert bad["difference"] == float("inf")
