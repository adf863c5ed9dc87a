"""Check top-k's kernels on the GPU against aten's: every bit of values and indices, and their order."""

from __future__ import annotations

import random

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.benchmark.bits import equal_bits
from graphstreams.kernels.top_k import DTYPES, Form, OneProgram, SeveralPrograms, TopK, launch, program, select, supports
from tests.support.top_k_cases import ADVERSARIAL, adversarial, random_rows

pytestmark = pytest.mark.gpu

FORMS: tuple[Form, ...] = (
    OneProgram(4), OneProgram(16), OneProgram(32), SeveralPrograms(), SeveralPrograms(programs=13, slack=0, warps=(4, 16, 4)),
    SeveralPrograms(programs=8, slack=40, spare=0.01),
)  # fmt: skip
FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]


def check(x: torch.Tensor, k: int, largest: bool, form: Form) -> None:
    expected = torch.topk(x, k, largest=largest, sorted=False)
    assert equal_bits([*expected], [*select(x, k, largest, form)]), f"{x.shape} {x.dtype}, k {k}, largest {largest}, {form}"


@pytest.mark.parametrize("seed", range(200))
def test_random_rows(seed: int) -> None:
    drawn = random.Random(seed)
    dtype = DTYPES[seed % len(DTYPES)]
    length = drawn.choice([drawn.randint(1, 600), drawn.randint(600, 9000), drawn.randint(9000, 150_000)])
    rows, k, largest = drawn.choice([1, 1, 2, 5, 33]), drawn.randint(1, length), drawn.random() < 0.7
    x = random_rows(rows, length, dtype, seed, "cuda")
    for form in FORMS:
        if supports(TopK(rows, length, k, dtype, length), form):
            check(x, k, largest, form)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name: str, dtype: torch.dtype) -> None:
    for length in (1000, 32_768, 70_000):
        x = adversarial(name, 2, length, dtype, "cuda")
        for k in (1, 500, length // 2, length):
            for form in FORMS:
                if supports(TopK(2, length, k, dtype, length), form):
                    check(x, k, k != 500, form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_strided_rows(form: Form) -> None:
    x = random_rows(64, 9000, torch.float32, 1, "cuda")
    check(x[::3, 17:8000], 2000, True, form)
    check(x[:, ::2], 1000, False, form)
    check(x.T, 20, True, form)
    check(x[:1].expand(40, 9000), 900, True, form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_captured_top_k_follows_its_input(form: Form) -> None:
    length, k = 20_000, 2048
    work = program(TopK(1, length, k, torch.float32, length), form)
    captured = CapturedFunction(
        lambda x: [launch(x, work)[name] for name in ("values", "indices")], [torch.zeros(1, length).cuda()]
    )
    for seed in range(20):
        x = random_rows(1, length, torch.float32, seed, "cuda")
        captured.load([x])
        captured.replay()
        assert equal_bits([*torch.topk(x, k, sorted=False)], captured.outputs)
