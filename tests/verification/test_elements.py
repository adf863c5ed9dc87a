"""Check that tensors which are said to share no element share none, and that the pieces of concatenations are found apart."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.verification.elements import Elements, disjoint
from tests.support.reachability import places

F32 = "torch.float32"


def tensor(sizes: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, dtype: str = F32) -> Elements:
    return Elements(dtype, sizes, strides, offset)


def pieces(shape: tuple[int, ...], dimension: int, count: int = 3, padding: int = 0) -> list[Elements]:
    """Return slices of one tensor along a dimension: as many as `count`, of the sizes 1, 2, ..., with padded rows."""
    whole = [*shape]
    whole[dimension] = sum(range(1, count + 1))
    strides = tuple(math.prod(whole[i + 1 :]) + (padding if i < len(whole) - 1 else 0) for i in range(len(whole)))
    found, start = [], 0
    for width in range(1, count + 1):
        sizes = (*shape[:dimension], width, *shape[dimension + 1 :])
        found.append(tensor(sizes, strides, start * strides[dimension]))
        start += width
    return found


@pytest.mark.parametrize("dimension", range(3))
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (4, 1, 1), (4, 5, 1)])
def test_pieces_of_a_concatenation_are_apart(shape: tuple[int, ...], dimension: int) -> None:
    for one, other in itertools.permutations(pieces(shape, dimension), 2):
        assert disjoint(one, other)
        assert not disjoint(one, one)


def test_pieces_with_padded_rows_are_apart() -> None:
    assert all(disjoint(*pair) for pair in itertools.combinations(pieces((4, 5), 1, padding=8), 2))


def test_one_element_too_many_is_no_longer_apart() -> None:
    left, right = tensor((8, 512), (1024, 1)), tensor((8, 512), (1024, 1), 512)
    assert disjoint(left, right)
    assert not disjoint(left, tensor((8, 512), (1024, 1), 511))
    assert not disjoint(tensor((8, 513), (1024, 1)), right)
    assert not disjoint(left, tensor((8, 512), (1024, 1), 513))  # runs into the next row
    assert disjoint(left, tensor((7, 511), (1024, 1), 513))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tensor((2,), (1,)), tensor((2,), (1,), 2, "torch.bfloat16")),
        (tensor((2,), (-1,), 5), tensor((2,), (1,), 8)),
        (tensor((2, 2), (1,)), tensor((2,), (1,), 8)),
        (tensor((2,), (1,), -4), tensor((2,), (1,), 8)),
        (tensor((True,), (1,)), tensor((2,), (1,), 8)),
    ],
)
def test_what_is_not_understood_is_not_apart(one: Elements, other: Elements) -> None:
    assert not disjoint(one, other)
    assert not disjoint(other, one)


def test_an_empty_tensor_is_apart_from_all() -> None:
    assert disjoint(tensor((0, 4), (4, 1)), tensor((4, 4), (4, 1)))


def test_different_layouts_over_the_same_columns() -> None:
    """One is a column of a matrix, the other a row of blocks: both keep to columns of 8."""
    assert disjoint(tensor((4,), (8,), 7), tensor((2, 2, 3), (16, 8, 1), 2))
    assert not disjoint(tensor((4,), (8,), 4), tensor((2, 2, 3), (16, 8, 1), 2))


_sizes = st.lists(st.integers(0, 4), max_size=3)
_tensors = _sizes.flatmap(
    lambda sizes: st.builds(
        lambda strides, offset: tensor(tuple(sizes), tuple(strides), offset),
        st.lists(st.integers(0, 12), min_size=len(sizes), max_size=len(sizes)),
        st.integers(0, 20),
    )
)


@settings(max_examples=2000, deadline=None)
@given(_tensors, _tensors)
def test_what_is_said_to_be_apart_has_no_element_in_common(one: Elements, other: Elements) -> None:
    if disjoint(one, other):
        assert not places(one) & places(other)
    assert disjoint(one, other) == disjoint(other, one)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 14), st.integers(0, 14), st.integers(7, 13))
def test_slices_of_rows_are_judged_exactly(
    rows: int, width: int, other_width: int, start: int, other: int, stride: int
) -> None:
    """Those that do not run over the end of a row."""
    if start + width <= stride and other + other_width <= stride:
        one, two = tensor((rows, width), (stride, 1), start), tensor((rows, other_width), (stride, 1), other)
        assert disjoint(one, two) == (not places(one) & places(two))
