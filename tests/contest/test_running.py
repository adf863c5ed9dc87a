"""What a contest says of bits and times. No GPU."""

from __future__ import annotations

import torch

from graphstreams.contest.results import summary
from graphstreams.contest.running import difference


def test_samples_become_a_median_and_quartiles() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == {"median": 4.0, "first_quartile": 2.0, "third_quartile": 6.0}


def test_a_difference_is_relative_and_counts_unequal_integers() -> None:
    numbers, slots = torch.tensor([1.0, -4.0]), torch.tensor([1, 2, 3, 4])
    assert difference([numbers, slots], [numbers, slots]) == 0.0
    assert difference([numbers], [torch.tensor([1.0, -4.5])]) == 0.125
    assert difference([slots], [torch.tensor([1, 2, 3, 5])]) == 0.25
    assert difference([numbers], [torch.tensor([float("nan"), -4.0])]) == float("inf")
