"""Check how far what two versions of a graph compute is said to lie apart, and that changed inputs count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphstreams.autotuning.output_differences import largest_difference
from graphstreams.autotuning.plan_benchmark import PlanBenchmark
from graphstreams.options import Options

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, -4.0], [1.5, -4.0], 0.125),
        ([1.0, -INF, NAN], [1.0, -INF, NAN], 0.0),  # what a mask has, and what nothing was written to
        ([-INF, 4.0], [-INF, 3.0], 0.25),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, 2.0], [1.0, -INF], INF),
        ([0.0], [0.0], 0.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.5),
        ([True, True], [True, False], 0.5),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_a_share_of_the_largest_value(first: list[Any], second: list[Any], expected: float) -> None:
    assert largest_difference([torch.tensor(first), 7], [torch.tensor(second), 8]) == expected


def test_the_largest_of_all_tensors_counts() -> None:
    first, second = [torch.tensor([2.0]), torch.tensor([8.0])], [torch.tensor([3.0]), torch.tensor([9.0])]
    assert largest_difference(first, second) == 0.5 and largest_difference([], []) == 0.0


def test_outputs_have_the_inputs_that_the_code_changes() -> None:
    source = "def call(args):\n    weight, cache = args\n    cache.add_(weight)\n    return (weight * 2,)\n"
    graph = SimpleNamespace(constants={}, graph_input_names=["weight", "cache"], mutated_inputs=["cache"])
    serial: Any = SimpleNamespace(source=source, graph=graph)
    replayer: Any = SimpleNamespace(run=lambda function: function(), capture_serial=lambda order: None)
    benchmark = PlanBenchmark(replayer, [torch.tensor([3.0]), torch.tensor([1.0])], [], Options())
    assert [value.tolist() for value in benchmark.outputs(serial)] == [[6.0], [4.0]]
