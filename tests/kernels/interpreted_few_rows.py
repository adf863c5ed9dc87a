"""Check products of few rows in Triton's interpreter, on the CPU: `test_few_rows.py` runs this file with TRITON_INTERPRET=1.

The interpreter of Triton 3.9.0 multiplies the bits of bfloat16 as if they were whole numbers, and cuts bits off if a result
becomes bfloat16 (`runtime/interpreter.py`, create_dot and cast_impl). So tensor cores have float16 and float8 here, and
results in bfloat16 twice the error. `tests/gpu/test_few_rows.py` has neither exception.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import pytest
import torch

from graphstreams.kernels.few_rows import launch
from graphstreams.kernels.few_rows_forms import FLOAT8, Form, MultiplyAndSum, TensorCores
from tests.support import few_rows_cases
from tests.support.few_rows_cases import integer_case, random_case, with_bias
from tests.support.triton_interpreter import replace_language_once

replace_language_once()

ROUNDING = {**few_rows_cases.ROUNDING, torch.bfloat16: 2.0**-7}
SUMS: tuple[Form, ...] = (
    MultiplyAndSum(8, 32), MultiplyAndSum(4, 64, splits=2), MultiplyAndSum(8, 32, programs=2),
    MultiplyAndSum(8, 16, splits=3, programs=5, direct=False), MultiplyAndSum(8, 64, stages=3, direct=False),
)  # fmt: skip
DOTS: tuple[Form, ...] = (
    TensorCores(16, 32), TensorCores(32, 32, splits=2), TensorCores(16, 64, programs=2), TensorCores(64, 32, swapped=True),
    TensorCores(64, 32, splits=3, programs=2, swapped=True),
)  # fmt: skip
# Rows, K and columns; K and columns are cut off by most tiles.
SHAPES = ((1, 70, 21), (3, 101, 24), (4, 65, 5), (16, 75, 39), (64, 96, 33))


def forms_for(rows: int, dtype: torch.dtype) -> tuple[Form, ...]:
    dots = DOTS if dtype != torch.bfloat16 else ()
    return (*dots, *SUMS) if rows <= 4 else dots


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, FLOAT8], ids=str)
def test_products_of_whole_numbers_are_exact(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    case = integer_case(*shape, dtype)
    for form in forms_for(shape[0], dtype):
        assert case.launched(form).tolist() == case.reference()[0].tolist(), form


@pytest.mark.parametrize("shape", [(1, 100, 21), (2, 70, 16), (16, 75, 39)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, FLOAT8], ids=str)
def test_sums_lose_no_more_than_their_length_allows(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    case = random_case(*shape, dtype)
    for form, out_dtype in zip(forms_for(shape[0], dtype), cycle((torch.float32, torch.bfloat16, torch.float16)), strict=False):
        assert replace(case, out_dtype=out_dtype).excess(form, rounding=ROUNDING[out_dtype]) <= 0, (form, out_dtype)


@pytest.mark.parametrize("rows", [3, 16])
@pytest.mark.parametrize("scaling", ["tensor", "output"])
def test_scales_of_tensors_and_of_rows(scaling: str, rows: int) -> None:
    case = with_bias(random_case(rows, 130, 21, FLOAT8, scaling), torch.bfloat16)
    for form in forms_for(rows, FLOAT8):
        assert case.excess(form) <= 0, form


@pytest.mark.parametrize("rows", [4, 16])
def test_scales_of_blocks(rows: int) -> None:
    case = random_case(rows, 300, 132, FLOAT8, "block")
    forms = [TensorCores(32, 64), TensorCores(16, 128, splits=2), TensorCores(64, 64, splits=2, swapped=True)]
    sums = [MultiplyAndSum(16, 64), MultiplyAndSum(8, 128, splits=3), MultiplyAndSum(16, 32, direct=False, programs=3)]
    for form in [*forms, *sums] if rows <= 4 else forms:
        assert case.excess(form) <= 0, form


def test_scales_may_be_padded_and_a_column_at_a_time() -> None:
    case = random_case(3, 256, 130, FLOAT8, "block")
    assert case.scale_x is not None and case.scale_w is not None
    scale_x = torch.zeros(2, 8).t()[:3]
    scale_w = torch.zeros(2, 4).t()
    scale_x.copy_(case.scale_x)
    scale_w[:2] = case.scale_w
    for form in (TensorCores(16, 64), MultiplyAndSum(8, 64)):
        padded = launch(form, case.x, case.w, None, scale_x, scale_w, torch.float32)
        assert padded.tolist() == case.launched(form).tolist()


@pytest.mark.parametrize("rows", [1, 4, 20])
def test_a_bias_is_added_before_the_result_is_rounded(rows: int) -> None:
    case = replace(with_bias(random_case(rows, 70, 21, torch.float16), torch.float16), out_dtype=torch.float16)
    for form in forms_for(rows, torch.float16):
        assert case.excess(form) <= 0, form


@pytest.mark.parametrize("rows", [3, 16])
def test_operands_of_other_strides(rows: int) -> None:
    case = integer_case(2 * rows, 160, 26, torch.float16)
    strided = [
        replace(case, x=case.x[::2, 3:73], w=case.w[10:80, ::2]),
        replace(case, x=case.x[1::2, ::2], w=case.w[::2]),
        replace(case, x=case.x[:rows].t().contiguous().t(), w=case.w.contiguous()),
    ]
    for changed in strided:
        for form in forms_for(rows, torch.float16)[::3]:
            assert changed.launched(form).tolist() == changed.reference()[0].tolist(), form


def test_a_split_may_have_no_steps() -> None:
    case = integer_case(2, 150, 20, torch.float16)  # 5 steps of 32, two for each of 4 splits
    for form in (MultiplyAndSum(4, 32, splits=4), TensorCores(16, 32, splits=4)):
        assert case.launched(form).tolist() == case.reference()[0].tolist()
