"""Check what is read of the work of each launch, of modules that are lowered for an H200."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

from graphstreams.ir.kernels import KernelGraph, LaunchWork
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS

HALF = torch.bfloat16


def of(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def graph_of(function: Callable[..., Any], *inputs: Tensor) -> KernelGraph:
    (outcome,) = capture(function, inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None
    return outcome.reading.kernels


def work_of(operator: str, function: Callable[..., Any], *inputs: Tensor) -> LaunchWork:
    """Return the work of the only launch that calls `operator`."""
    (found,) = (work for kernel in graph_of(function, *inputs).kernels for work in kernel.work if work.operator == operator)
    return found


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def conv(channels: int, dtype: torch.dtype, **changes: Any) -> nn.Module:
    return nn.Conv2d(channels, 32, 3, bias=False, dtype=dtype, device="meta", **changes)


@pytest.mark.parametrize(("dtype", "expected"), [(HALF, "bfloat16"), (torch.float32, "tfloat32")])
def test_a_convolution_may_round_float32(dtype: torch.dtype, expected: str) -> None:
    work = work_of("convolution", conv(16, dtype), of(1, 16, 12, 12, dtype=dtype))
    assert (work.kind, work.dtype, work.inner) == ("extern", expected, 16 * 9)
    assert work.flops == 2 * 32 * 100 * 16 * 9


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(("setting", "expected"), [("highest", "float32"), ("high", "tfloat32")])
def test_a_product_rounds_float32_if_torch_is_told_to(setting: str, expected: str) -> None:
    torch.set_float32_matmul_precision(setting)
    work = work_of("mm", torch.mm, of(64, 64, dtype=torch.float32), of(64, 64, dtype=torch.float32))
    assert (work.kind, work.dtype, work.inner) == ("gemm", expected, 64)


@pytest.mark.parametrize(
    ("channels", "optimized", "rearranged", "narrow"),
    [(16, False, True, False), (16, True, False, False), (3, False, True, True)],
)
def test_layout_and_channels_of_a_convolution(channels: int, optimized: bool, rearranged: bool, narrow: bool) -> None:
    """With Inductor's optimization of layouts it is Inductor that copies, by kernels of its own."""
    with config.patch(layout_optimization=optimized, force_layout_optimization=optimized):
        work = work_of("convolution", conv(channels, HALF), of(2, channels, 12, 12))
    assert (work.rearranged, work.narrow) == (rearranged, narrow)


def test_groups_of_a_convolution() -> None:
    assert work_of("convolution", conv(16, HALF, groups=4), of(1, 16, 12, 12)).matrices == 4
    each = nn.Conv2d(16, 16, 3, groups=16, bias=False, dtype=HALF, device="meta")
    assert work_of("convolution", each, of(1, 16, 12, 12)).matrices == 1


def test_the_addition_of_a_bias_does_not_compute_the_convolution_again() -> None:
    module = nn.Sequential(nn.Conv2d(16, 32, 3, dtype=HALF, device="meta"), nn.ReLU())
    computing = [kernel.kind for kernel in graph_of(module, of(1, 16, 12, 12)).kernels if kernel.flops > 0]
    assert computing == ["extern"]


def test_attention_by_cudnn() -> None:
    query = of(2, 8, 256, 64)
    (kernel,) = (
        each for each in graph_of(nn.functional.scaled_dot_product_attention, query, query, query).kernels if each.work
    )
    (work,) = kernel.work
    assert work.operator.startswith("_scaled_dot_product_") and work.inner == 256
    assert work.flops == kernel.flops == 2 * 16 * 256 * 256 * 128


def test_experts_without_tokens_are_not_read() -> None:
    def product(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        return torch._grouped_mm(x, weights, offs=ends)

    weights, ends = of(64, 256, 512), of(64, dtype=torch.int32)
    few = work_of("_grouped_mm", product, of(4, 256), weights, ends)
    many = work_of("_grouped_mm", product, of(1024, 256), weights, ends)
    one = 256 * 512 * 2
    assert few.kind == "gemm" and 4 * one < few.bytes < 5 * one
    assert 64 * one < many.bytes < 72 * one


def test_of_a_view_only_its_elements_are_read() -> None:
    whole = of(64, 1024)
    work = work_of("mm", lambda x, w: x[:4] @ w, whole, of(1024, 16))
    assert work.bytes == 2 * (4 * 1024 + 1024 * 16 + 4 * 16)


def test_of_an_expanded_operand_each_element_is_read_once() -> None:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(x, weight.expand(32, 64, 48))

    work = work_of("bmm", product, of(32, 8, 64), of(64, 48))
    assert work.bytes == 2 * (32 * 8 * 64 + 64 * 48 + 32 * 8 * 48)
    assert work.streamed == 2 * 32 * (8 * 64 + 64 * 48)
    assert (work.matrices, work.vectors) == (32, 0)
    unaligned, aligned = (work_of("bmm", torch.bmm, of(32, rows, 48), of(32, 48, 1)) for rows in (61, 64))
    assert (unaligned.vectors, aligned.vectors) == (32 * 61, 0)


def test_a_gather_reads_what_indices_name() -> None:
    (kernel,) = graph_of(lambda table, rows: table[rows] * 2, of(4096, 64), of(8, dtype=torch.int64)).kernels
    (work,) = kernel.work
    assert work.gathers and work.bytes == 8 * 8 + 2 * 2 * 8 * 64
    (plain,) = graph_of(lambda x: x * 2, of(64)).kernels
    assert not plain.work[0].gathers and plain.work == (LaunchWork("pointwise", plain.work[0].bytes, dtype="bfloat16"),)
