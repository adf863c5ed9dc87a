"""Check products of few rows in Triton's interpreter, and what each form launches and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphstreams.kernels.few_rows import product_of, program
from graphstreams.kernels.few_rows_candidates import LIMIT, candidates, sweep
from graphstreams.kernels.few_rows_forms import (
    FLOAT8,
    Form,
    MultiplyAndSum,
    Product,
    TensorCores,
    fields_of,
    form_name,
    form_of,
    supports,
)
from tests.support.paths import ROOT

BFLOAT16, SM_COUNT = torch.bfloat16, 132
PRODUCT = Product(1, 2112, 7168, BFLOAT16, BFLOAT16, (7168, 1), (1, 7168))
BLOCKS = {"dtype": FLOAT8, "scaling": "block", "scale_x_strides": (1, 4), "scale_w_strides": (1, 56)}
PRODUCTS = [
    replace(PRODUCT, rows=rows, columns=columns, depth=depth, **changes)
    for rows in (1, 4, 5, 64)
    for columns, depth in ((2112, 7168), (64, 7168), (24_576, 1536), (100, 1000))
    for changes in ({}, {"dtype": FLOAT8}, BLOCKS, {"w_strides": (columns, 1)})
]


def test_kernels_give_the_sums_of_products() -> None:
    # In a process of its own, because functions are made for the interpreter when they are decorated.
    file = Path(__file__).parent / "interpreted_few_rows.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_launch_without_splits() -> None:
    (launch,) = program(PRODUCT, MultiplyAndSum(4, 512)).launches
    assert (launch.kernel, launch.grid, launch.warps) == ("few_rows_sum", (528,), 4)  # 2112 / 4
    assert launch.tensors == {"x": "x", "w": "w", "out": "out"} and launch.writes == ("out",)
    assert (launch.numbers["steps"], launch.numbers["splits"]) == (14, 1)  # of 512 elements
    absent = {name: launch.constants[name] for name in ("bias", "scale_x", "scale_w")}
    assert absent == {"bias": None, "scale_x": None, "scale_w": None}


def test_splits_are_summed_by_a_second_launch() -> None:
    work = program(replace(PRODUCT, rows=5, biased=True), TensorCores(32, 128, splits=4, programs=100))
    assert [(each.name, each.shape, each.dtype) for each in work.buffers] == [
        ("out", (5, 2112), BFLOAT16),
        ("partial", (4, 5, 2112), torch.float32),
    ]
    first, second = work.launches
    assert (first.kernel, first.grid, first.writes) == ("few_rows_dot", (100,), ("partial",))  # of 66 tiles * 4
    assert first.numbers["steps"] == 14 and first.constants["rows"] == 16
    assert (second.kernel, second.grid, second.writes) == ("few_rows_splits", (9, 5), ("out",))
    assert second.tensors == {"partial": "partial", "bias": "bias", "out": "out"}


def test_there_are_no_more_programs_than_tiles() -> None:
    (launch,) = program(PRODUCT, TensorCores(64, 128, programs=40)).launches
    assert launch.grid == (33,)


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_candidates_are_few_distinct_and_possible(product: Product) -> None:
    found = candidates(product, SM_COUNT)
    assert 1 <= len(found) <= LIMIT and len(set(found)) == len(found)
    assert all(supports(product, form) for form in found)
    kinds = {type(form) for form in found}
    along = product.w_strides[0] == 1
    assert (MultiplyAndSum in kinds) == (product.rows <= 4)
    assert (TensorCores in kinds) == (along or product.dtype != FLOAT8)
    wider = sweep(product, SM_COUNT)
    assert set(found) < set(wider) and all(supports(product, form) for form in wider)


def test_some_candidates_leave_sms_to_neighbours_and_some_split_what_has_few_tiles() -> None:
    assert min(program(PRODUCT, form).launches[0].grid[0] for form in candidates(PRODUCT, SM_COUNT)) <= SM_COUNT // 2
    assert TensorCores(64, 128, splits=2, swapped=True) in candidates(PRODUCT, SM_COUNT)  # of 33 tiles
    wide = replace(PRODUCT, rows=8, columns=24_576, depth=1536)
    assert SM_COUNT // 2 in {form.programs for form in candidates(wide, SM_COUNT)}
    narrow = replace(PRODUCT, rows=8, columns=64)
    assert max(form.splits for form in candidates(narrow, SM_COUNT)) == 16


@pytest.mark.parametrize(
    "form", [MultiplyAndSum(8, 256, 2, 66, 8, 1, False), TensorCores(64, 64, 3, None, 4, 5, True)], ids=str
)
def test_forms_are_plain_data(form: Form) -> None:
    assert form_of(fields_of(form)) == form


def test_names_differ() -> None:
    for product in (PRODUCT, replace(PRODUCT, rows=8)):
        forms = sweep(product, SM_COUNT)
        assert len({form_name(form) for form in forms}) == len(forms)


@pytest.mark.parametrize(
    ("changed", "form"),
    [
        ({"rows": 65}, TensorCores()),
        ({"rows": 5}, MultiplyAndSum()),
        ({"dtype": torch.float32}, TensorCores()),
        ({"out": torch.float64}, TensorCores()),
        ({"depth": 0}, TensorCores()),
        ({"columns": 2**18 + 1, "depth": 2**13, "w_strides": (1, 2**13)}, TensorCores()),  # 2**31 elements before the last row
        ({}, MultiplyAndSum(splits=8)),  # of 7 steps
        ({}, MultiplyAndSum(splits=33, depth=128)),
        ({}, MultiplyAndSum(programs=0)),
        ({}, MultiplyAndSum(columns=3)),
        ({}, MultiplyAndSum(16, 1024)),  # 128 sums a thread
        ({"rows": 4}, MultiplyAndSum(4, 1024)),
        ({}, MultiplyAndSum(stages=2)),  # direct
        ({}, TensorCores(8)),
        ({}, TensorCores(32, 8)),
        ({"dtype": FLOAT8}, TensorCores(32, 16)),
        ({"dtype": FLOAT8, "w_strides": (2112, 1)}, TensorCores()),
        ({}, TensorCores(32, swapped=True)),
        ({}, TensorCores(64, warps=2, swapped=True)),
        ({}, TensorCores(128, 256, stages=4)),  # 288 KiB
        (BLOCKS, TensorCores(64, 256)),
        (BLOCKS, TensorCores(256, 32)),
        (BLOCKS, MultiplyAndSum(1, 256)),
    ],
)
def test_a_form_refuses_what_it_cannot_do(changed: dict[str, Any], form: Form) -> None:
    asked = replace(PRODUCT, **changed)
    assert not supports(asked, form)
    with pytest.raises(ValueError, match="can't do"):
        program(asked, form)


def test_kinds_of_scales_are_told_from_their_shapes() -> None:
    x, w = torch.empty(3, 256, dtype=FLOAT8), torch.empty(130, 256, dtype=FLOAT8).t()

    def found(scale_x: torch.Tensor, scale_w: torch.Tensor) -> tuple[Any, ...]:
        product = product_of(x, w, None, scale_x, scale_w)
        return product.scaling, product.scale_x_strides, product.scale_w_strides

    assert found(torch.empty(()), torch.empty(1)) == ("output", (0, 0), (0, 0))
    assert found(torch.empty(3, 1), torch.empty(1, 130)) == ("output", (1, 0), (0, 1))
    assert found(torch.empty(2, 4).t()[:3], torch.empty(2, 4).t()) == ("block", (1, 4), (1, 4))
    assert product_of(x, w).out == BFLOAT16


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        ((torch.empty(2, 3), torch.empty(4, 5)), "no product of"),
        ((torch.empty(2, 3), torch.empty(3, 5).half()), "no product of"),
        ((torch.empty(2, 3), torch.empty(3, 5), torch.empty(4)), "a bias of 5 columns"),
        ((torch.empty(2, 3), torch.empty(3, 5), torch.empty(10)[::2]), "a bias of 5 columns"),
        ((torch.empty(2, 3), torch.empty(3, 5), None, torch.empty(1)), "both operands"),
        ((torch.empty(2, 3), torch.empty(3, 5), None, torch.empty(1).half(), torch.empty(1)), "both operands"),
        ((torch.empty(2, 3), torch.empty(3, 5), None, torch.empty(2, 1), torch.empty(1, 4)), "are for no product"),
    ],
)
def test_operands_that_make_no_product_are_named(operands: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        product_of(*operands)
