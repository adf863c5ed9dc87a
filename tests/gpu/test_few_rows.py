"""Check products of few rows on the GPU: exact sums of whole numbers, bounds in float64, and equal bits in every run."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.few_rows_benchmark import compile_ahead
from graphstreams.benchmark.bits import equal_bits
from graphstreams.kernels.few_rows import launch, product_of
from graphstreams.kernels.few_rows_candidates import candidates, sweep
from graphstreams.kernels.few_rows_forms import DTYPES, FLOAT8, MultiplyAndSum, TensorCores
from tests.support.few_rows_cases import Case, integer_case, random_case, with_bias

pytestmark = pytest.mark.gpu

SM_COUNT = 132
# Rows, K and columns.
SHAPES = (
    (1, 7168, 2112), (2, 1536, 520), (3, 1000, 300), (4, 333, 77), (5, 7168, 2112), (16, 1000, 300), (33, 1536, 520),
    (64, 333, 77), (64, 7168, 2112),
)  # fmt: skip
# What an addition may lose: tensor cores cut bits off instead of rounding, and Hopper's keep 14 bits of sums of float8.
UNIT, UNIT_OF_FLOAT8 = 2.0**-22, 2.0**-13


def forms_of(case: Case) -> tuple[MultiplyAndSum | TensorCores, ...]:
    """Return the candidates for a case, compiled on all cores."""
    product = product_of(case.x, case.w, case.bias, case.scale_x, case.scale_w, case.out_dtype)
    forms = candidates(product, SM_COUNT)
    compile_ahead([(product, form) for form in forms])
    return forms


def exact(case: Case, form: MultiplyAndSum | TensorCores) -> bool:
    return torch.equal(case.launched(form).double(), case.reference()[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_whole_numbers_are_exact(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = integer_case(*shape, dtype, "cuda")
    for form in forms_of(case):
        assert exact(case, form), form


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("rows", [1, 16])
def test_weights_that_lie_along_columns(rows: int, dtype: torch.dtype) -> None:
    case = integer_case(rows, 1024, 700, dtype, "cuda")
    case = replace(case, w=case.w.contiguous())
    for form in forms_of(case):
        assert exact(case, form), form


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_sums_lose_no_more_than_their_length_allows(rows: int, dtype: torch.dtype) -> None:
    case = with_bias(random_case(rows, 1536, 300, dtype, device="cuda"), dtype)
    for changed in (case, replace(case, out_dtype=dtype)):
        for form in forms_of(changed):
            assert changed.excess(form, UNIT) <= 0, (form, changed.out_dtype)


@pytest.mark.parametrize("scaling", ["tensor", "output", "block"])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_float8_with_scales(rows: int, scaling: str) -> None:
    case = random_case(rows, 1536, 300, FLOAT8, scaling, "cuda")
    for form in forms_of(case):
        unit = UNIT if isinstance(form, MultiplyAndSum) else UNIT_OF_FLOAT8
        assert case.excess(form, unit) <= 0, form


@pytest.mark.parametrize("rows", [1, 16])
def test_operands_of_other_strides_and_alignment(rows: int) -> None:
    case = integer_case(2 * rows, 1100, 500, torch.bfloat16, "cuda")
    for changed in (
        replace(case, x=case.x[::2, 3:1003], w=case.w[7:1007]),
        replace(case, x=case.x[1::2, 16:1040], w=case.w[8:1032, ::3]),
        replace(case, x=case.x[:rows].t().contiguous().t()),
    ):
        for form in forms_of(changed)[::4]:
            assert exact(changed, form), form


@pytest.mark.parametrize("seed", range(12))
def test_forms_of_the_wider_grid(seed: int) -> None:
    drawn = random.Random(seed)
    dtype, rows = DTYPES[seed % len(DTYPES)], drawn.choice([1, 2, 3, 4, 7, 16, 40])
    case = integer_case(rows, drawn.randint(64, 4000), drawn.randint(1, 1500), dtype, "cuda", seed)
    forms = sweep(product_of(case.x, case.w, out_dtype=torch.float32), SM_COUNT)
    for form in drawn.sample(forms, min(len(forms), 4)):
        assert exact(case, form), form


@pytest.mark.parametrize("rows", [1, 8])
def test_bits_are_the_same_in_every_run_and_follow_the_input(rows: int) -> None:
    case = random_case(rows, 7168, 500, torch.bfloat16, device="cuda")
    for form in forms_of(case):
        captured = CapturedFunction(lambda x, form=form: launch(form, x, case.w), [case.x])
        for seed in range(3):
            x = random_case(rows, 7168, 500, torch.bfloat16, device="cuda", seed=seed).x
            captured.load([x])
            for _ in range(5):
                captured.replay()
                assert equal_bits([launch(form, x, case.w)], captured.outputs), form
