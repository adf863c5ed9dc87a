"""Check how sorted results of top-k are compared, by results written out here."""

from __future__ import annotations

import pytest
import torch

from graphstreams.benchmark.ties import equal_but_for_ties

NAN = float("nan")
VALUES, INDICES = [NAN, NAN, 3.0, 0.0, -0.0, 0.0], [4, 9, 2, 7, 1, 5]


def result(values: list[float], indices: list[int], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a result of one row."""
    return torch.tensor([values], dtype=dtype), torch.tensor([indices])


@pytest.mark.parametrize(
    ("values", "indices", "same"),
    [
        (VALUES, INDICES, True),
        (VALUES, [9, 4, 2, 5, 7, 1], True),  # within runs of equal values
        ([NAN, NAN, 3.0, -0.0, 0.0, 0.0], [4, 9, 2, 1, 7, 5], True),  # zeros of both signs
        (VALUES, [4, 9, 7, 2, 1, 5], False),  # across two runs
        (VALUES, [4, 9, 3, 7, 1, 5], False),  # another index
        (VALUES, [4, 4, 2, 7, 1, 5], False),  # one twice
        ([NAN, NAN, 2.5, 0.0, -0.0, 0.0], INDICES, False),
        ([NAN, 3.0, NAN, 0.0, -0.0, 0.0], INDICES, False),
    ],
)
def test_only_ties_may_stand_in_another_order(values: list[float], indices: list[int], same: bool) -> None:
    assert equal_but_for_ties(result(VALUES, INDICES), result(values, indices)) is same


def test_types_and_shapes_have_to_agree() -> None:
    expected = result([2.0, 1.0], [0, 1])
    assert not equal_but_for_ties(expected, result([2.0, 1.0], [0, 1], torch.bfloat16))
    assert not equal_but_for_ties(expected, result([2.0], [0]))
    assert not equal_but_for_ties(expected, (expected[0], expected[1].int()))


def test_rows_are_compared_each_by_itself() -> None:
    values, indices = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[3, 2], [5, 6]])
    assert equal_but_for_ties((values, indices), (values, torch.tensor([[2, 3], [5, 6]])))
    assert not equal_but_for_ties((values, indices), (values, torch.tensor([[3, 2], [6, 5]])))


def test_integers_are_compared_too() -> None:
    values = torch.tensor([[7, 7, 3]])
    assert equal_but_for_ties((values, torch.tensor([[0, 1, 2]])), (values, torch.tensor([[1, 0, 2]])))
