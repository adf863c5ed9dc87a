"""Check what Triton makes of products of few rows for an H200: wide loads, loads ahead, and which tensor cores."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from graphstreams.kernels.few_rows import kernel, program
from graphstreams.kernels.few_rows_forms import FLOAT8, Form, MultiplyAndSum, Product, TensorCores
from tests.support.compiled_kernels import compiled

WORDS = ("ld.global.v4", "cp.async.c", "mma.sync", "wgmma.mma_async", "st.local")


def made(form: Form, rows: int, dtype: torch.dtype = torch.bfloat16) -> tuple[str, Counter[str]]:
    """Return the PTX of a product's first launch, and how often it has the instructions that matter."""
    product = Product(rows, 2112, 7168, dtype, torch.bfloat16, (7168, 1), (1, 7168))
    each = program(product, form).launches[0]
    kinds = {"x": dtype, "w": dtype, "out": torch.bfloat16, "partial": torch.float32}
    tensors = {parameter: kinds[name] for parameter, name in each.tensors.items()}
    text: str = compiled(kernel(each.kernel), tensors, each.numbers, each.constants, each.warps).asm["ptx"]
    return text, Counter({word: text.count(word) for word in WORDS if word in text})


@pytest.mark.parametrize(("rows", "loads"), [(1, 4), (2, 6)])
def test_sums_load_weights_and_activations_16_bytes_at_a_time(rows: int, loads: int) -> None:
    # 2048 elements of 2 bytes are 2 loads of each of 128 threads, and as many of each row.
    assert made(MultiplyAndSum(2, 1024), rows)[1] == {"ld.global.v4": loads}


def test_what_sums_load_ahead_goes_through_shared_memory() -> None:
    assert made(MultiplyAndSum(2, 1024, stages=3, direct=False), 1)[1].keys() == {"cp.async.c"}


def test_tensor_cores_take_weights_that_were_loaded_ahead() -> None:
    assert made(TensorCores(32, 128, stages=5), 8)[1].keys() == {"cp.async.c", "mma.sync"}


@pytest.mark.parametrize(
    ("dtype", "instruction"), [(torch.bfloat16, "m64n16k16.f32.bf16.bf16"), (FLOAT8, "m64n16k32.f32.e4m3.e4m3")]
)
def test_swapped_weights_go_from_shared_memory_to_hoppers_tensor_cores(dtype: torch.dtype, instruction: str) -> None:
    text, found = made(TensorCores(64, 128, swapped=True), 8, dtype)
    assert found.keys() == {"cp.async.c", "wgmma.mma_async"} and instruction in text


def test_the_number_of_splits_does_not_change_the_code() -> None:
    texts = {made(TensorCores(32, 128, splits=splits, warps=2), 8)[0] for splits in (2, 4)}
    assert len(texts) == 1
