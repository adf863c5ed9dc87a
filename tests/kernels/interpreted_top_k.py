"""Check the kernels of top-k in Triton's interpreter, on the CPU: `test_top_k.py` runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.kernels.top_k import DTYPES, PROGRAMS_LIMIT, DynamicLength, Form, OneProgram, SeveralPrograms, TopK, program
from graphstreams.kernels.top_k_calls import launch, select
from tests.support.top_k_cases import ADVERSARIAL, FORMS, adversarial, random_rows
from tests.support.top_k_reference import bits, reference
from tests.support.triton_interpreter import replace_language_once

replace_language_once()


def check(x: torch.Tensor, k: int, largest: bool, form: Form) -> None:
    values, indices = select(x, k, largest, form)
    expected_values, expected_indices = reference(x, k, largest)
    assert indices.tolist() == expected_indices.tolist()
    assert bits(values).tolist() == bits(expected_values).tolist()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_rows_of_each_type(dtype: torch.dtype, form: Form) -> None:
    for largest in (True, False):
        check(random_rows(1, 110, dtype, seed=1), 40, largest, form)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name: str, form: Form) -> None:
    x = adversarial(name, 1, 130, torch.float32)
    for k in (1, 64):
        check(x, k, k != 64, form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_strided_rows(form: Form) -> None:
    x = random_rows(4, 200, torch.float16, seed=2)
    check(x[::2, 10:170], 33, True, form)
    check(x[1:3, ::3], 7, False, form)
    check(x.T[:3], 3, True, form)
    check(x[:1].expand(2, 200), 50, True, form)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.data())
def test_rows_with_many_ties(data: st.DataObject) -> None:
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 2.5e-38, 3.0, 3.0000002])
    row = data.draw(st.lists(numbers, min_size=1, max_size=70))
    k, largest = data.draw(st.integers(1, len(row))), data.draw(st.booleans())
    check(torch.tensor([row]), k, largest, data.draw(st.sampled_from(FORMS)))


def listed(x: torch.Tensor, k: int, form: Form, largest: bool = True) -> tuple[int, int, int]:
    """Return how many elements are in the list of a row, how many are expected there, and how many it can take."""
    work = program(TopK(1, x.shape[1], k, x.dtype, x.shape[1], 1, largest), form)
    (capacity,) = {buffer.shape[1] for buffer in work.buffers if buffer.name.startswith("list_")}
    return int(launch(x, work)["listed"]), work.launches[2].constants["usual"], capacity


@pytest.mark.parametrize("largest", [True, False])
def test_a_list_that_is_too_short_is_replaced_by_the_row(largest: bool) -> None:
    form = SeveralPrograms(programs=4, slack=30, spare=0.01)
    x = random_rows(1, 300, torch.float32, seed=3)
    number, _, capacity = listed(x, 100, form, largest)
    assert number > capacity == 64
    check(x, 100, largest, form)


def test_a_list_that_is_longer_than_expected_is_loaded_as_a_whole() -> None:
    form = SeveralPrograms(programs=4, slack=9, spare=0.01)
    x = random_rows(1, 300, torch.float32, seed=3)
    number, usual, capacity = listed(x, 100, form)
    assert usual < number <= capacity
    check(x, 100, True, form)


def test_the_range_of_a_sorted_row_is_narrow() -> None:
    x = torch.arange(2000, dtype=torch.float32).flip(0).reshape(1, -1)
    form = SeveralPrograms(programs=4, slack=1)
    assert listed(x, 300, form)[0] < 200
    check(x, 300, True, form)


def test_a_tail_of_equal_elements_leaves_a_short_list() -> None:
    x = random_rows(1, 2000, torch.float32, seed=4)
    x[:, 400:] = -torch.inf
    form = SeveralPrograms(programs=4, slack=1)
    assert listed(x, 300, form)[0] < 200
    check(x, 300, True, form)
    check(x, 1000, True, form)


LONGEST = 300


def check_length(x: torch.Tensor, k: int, largest: bool, form: Form, longest: int = LONGEST) -> None:
    """Check what launches for rows of up to `longest` elements make of shorter ones."""
    rows, length = x.shape
    work = program(TopK(rows, longest, k, x.dtype, x.stride(0), 1, largest, DynamicLength(length, k)), form)
    buffers, (values, indices) = launch(x, work), reference(x, k, largest)
    assert buffers["indices"].tolist() == indices.tolist()
    assert bits(buffers["values"]).tolist() == bits(values).tolist()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("length", [40, 41, 64, 97, 128, 255, 257, LONGEST])
def test_rows_shorter_than_the_launches_are_for(length: int, form: Form) -> None:
    """From k itself to the longest, in blocks that are full, partly empty and empty."""
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        check_length(random_rows(2, length, dtype, seed=length), 40, length % 2 == 0, form)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows_shorter_than_the_launches_are_for(name: str, form: Form) -> None:
    for length in (60, 131):
        check_length(adversarial(name, 1, length, torch.float32), 60, True, form)


def test_a_row_far_shorter_than_its_programs_are_many() -> None:
    form = SeveralPrograms(programs=PROGRAMS_LIMIT)
    for length in (1, 2, 31, 33):
        check_length(random_rows(1, length, torch.float32, seed=length), 1, True, form, longest=32 * PROGRAMS_LIMIT)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.data())
def test_any_length_up_to_the_longest(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, LONGEST))
    x = random_rows(1, length, torch.float32, seed=length)
    check_length(x, data.draw(st.integers(1, length)), data.draw(st.booleans()), data.draw(st.sampled_from(FORMS)))


def test_a_row_that_as_many_programs_share_as_can() -> None:
    form = SeveralPrograms(programs=PROGRAMS_LIMIT)
    check(random_rows(1, 32 * PROGRAMS_LIMIT - 5, torch.float32, seed=5), 700, True, form)


def test_the_largest_row_of_one_program() -> None:
    x = torch.ones(1, 32_768, dtype=torch.int16)
    check(x, 32_768, True, OneProgram(32))
