"""Check top-k's kernels in Triton's interpreter, and what each form launches."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphstreams.kernels.top_k import DTYPES, DynamicLength, OneProgram, SeveralPrograms, TopK, program, supports, usual_list
from graphstreams.kernels.top_k_calls import in_order
from tests.support.paths import ROOT
from tests.support.top_k_cases import ADVERSARIAL, adversarial, random_rows
from tests.support.top_k_reference import bits, reference

LONG = TopK(rows=2, length=131_072, k=2048, dtype=torch.float32, row_stride=131_072)


def test_kernels_give_atens_elements_in_atens_order() -> None:
    # In a process of its own, because functions are made for the interpreter when they are decorated.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent / "interpreted_top_k.py"),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_program_a_row_is_one_launch() -> None:
    work = program(TopK(rows=3, length=5000, k=10, dtype=torch.bfloat16, row_stride=6000), OneProgram(warps=8))
    (launch,) = work.launches
    assert [(buffer.name, buffer.shape, buffer.dtype) for buffer in work.buffers] == [
        ("values", (3, 10), torch.bfloat16),
        ("indices", (3, 10), torch.int64),
    ]
    assert (launch.kernel, launch.grid, launch.warps) == ("top_k_row", (3,), 8)
    assert launch.constants == {"largest": True, "lines": 32, "columns": 256}
    assert launch.numbers == {"n": 5000, "k": 10, "row_stride": 6000, "stride": 1}


def test_several_programs_a_row_are_three_launches() -> None:
    work = program(LONG, SeveralPrograms(programs=32))
    assert [(launch.kernel, launch.grid) for launch in work.launches] == [
        ("top_k_bounds", (2, 32)),
        ("top_k_count", (2, 32)),
        ("top_k_write", (2, 32)),
    ]
    shapes = {buffer.name: buffer.shape for buffer in work.buffers}
    assert shapes["bounds"] == (2, 2, 32) and shapes["counts"] == (2, 4, 32) and shapes["listed"] == (2,)
    assert shapes["list_keys"] == shapes["list_places"] == (2, 16_384)
    assert work.launches[2].constants["usual"] == 4096  # 4 times 4 roots of 2048 * 32


@pytest.mark.parametrize("form", [OneProgram(32), SeveralPrograms()], ids=["one", "shared"])
def test_with_a_dynamic_length_launches_are_those_for_the_longest_row_but_for_its_length(
    form: OneProgram | SeveralPrograms,
) -> None:
    longest = replace(LONG, length=30_000, row_stride=30_000)
    fixed = program(longest, form)
    for size in (2048, 5001, 30_000):
        work = program(replace(longest, dynamic=DynamicLength(size, shortest=2048)), form)
        assert work.buffers == fixed.buffers
        assert [each.numbers["n"] for each in work.launches] == [size] * len(fixed.launches)
        assert [replace(each, numbers={}) for each in work.launches] == [replace(each, numbers={}) for each in fixed.launches]


def test_the_list_has_room_for_what_random_rows_leave() -> None:
    assert usual_list(131_072, 2048, SeveralPrograms(programs=32, spare=1.0)) == 1024  # 4 roots of 2048 * 32
    assert usual_list(131_072, 131_072 - 2047, SeveralPrograms(programs=32, spare=1.0)) == 1024


@pytest.mark.parametrize(
    ("changed", "form"),
    [
        ({"length": 32_769}, OneProgram(64)),
        ({"length": 16_385}, OneProgram(16)),
        ({"k": 131_073}, SeveralPrograms()),
        ({"k": 0}, SeveralPrograms()),
        ({"rows": 0}, SeveralPrograms()),
        ({"dtype": torch.float8_e4m3fn}, SeveralPrograms()),
        ({"length": 32 * 8192 + 1}, SeveralPrograms(warps=(16, 8, 16))),
        ({}, SeveralPrograms(programs=65)),
        ({"dynamic": DynamicLength(4096, shortest=2047)}, SeveralPrograms()),
        ({"length": 4096, "stride": 2**20}, OneProgram(16)),
    ],
)
def test_a_form_refuses_what_it_cannot_do(changed: dict[str, object], form: OneProgram | SeveralPrograms) -> None:
    asked = replace(LONG, **changed)
    assert not supports(asked, form)
    with pytest.raises(ValueError, match="can't do"):
        program(asked, form)


def check_order(x: torch.Tensor, k: int, largest: bool) -> None:
    """Check that the elements which CUDA takes, in order, have the values of the CPU's top-k, and the bits and indices of x."""
    taken = reference(x, k, largest)
    values, indices = in_order(*taken, largest)
    expected = torch.topk(x, k, largest=largest).values
    assert bool(((values == expected) | (values.isnan() & expected.isnan())).all())
    assert torch.equal(bits(values), bits(x).gather(1, indices))
    assert torch.equal(indices.sort(-1).values, taken[1].sort(-1).values)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sorted_results_have_atens_values(dtype: torch.dtype, largest: bool) -> None:
    for k in (1, 40, 200):
        check_order(random_rows(3, 200, dtype, seed=k), k, largest)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows_are_sorted_as_aten_does(name: str, largest: bool) -> None:
    check_order(adversarial(name, 2, 130, torch.float32), 70, largest)


def test_nan_is_the_largest_and_zeros_of_both_signs_are_ties() -> None:
    nan = float("nan")
    taken = torch.tensor([[0.0, nan, -0.0, 1.0, -torch.inf]]), torch.tensor([[3, 5, 6, 7, 9]])
    values, indices = in_order(*taken, largest=True)
    assert str(values[0, [0, 1, 4]].tolist()) == "[nan, 1.0, -inf]"
    assert indices[0, [0, 1, 4]].tolist() == [5, 7, 9] and sorted(indices[0, 2:4].tolist()) == [3, 6]
    values, indices = in_order(*taken, largest=False)
    assert str(values[0, [0, 3, 4]].tolist()) == "[-inf, 1.0, nan]"
    assert indices[0, [0, 3, 4]].tolist() == [9, 7, 5] and sorted(indices[0, 1:3].tolist()) == [3, 6]
