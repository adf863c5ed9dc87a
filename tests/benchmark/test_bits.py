"""Check which numbers are equal bit by bit."""

import math

import pytest
import torch

from graphstreams.benchmark.bits import equal_bits

ONE = torch.tensor([1.0, 2.0])


def test_equal_tensors_and_numbers():
    assert equal_bits([ONE, 3], [ONE.clone(), 3])
    assert equal_bits([], [])


def test_nan_equals_itself():
    assert equal_bits([torch.tensor([math.nan])], [torch.tensor([math.nan])])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (torch.tensor([1.0, math.nextafter(2.0, 3.0)], dtype=torch.float64), "dtype"),
        (torch.tensor([[1.0, 2.0]]), "shape"),
        (torch.tensor([1.0, 2.0000002]), "last bit"),
        (torch.tensor([1.0]), "length"),
    ],
)
def test_tensors_that_differ(other, why):
    assert not equal_bits([ONE], [other]), why


def test_zeros_of_either_sign_differ():
    assert not equal_bits([torch.tensor([0.0])], [torch.tensor([-0.0])])


def test_strides_do_not_count():
    square = torch.arange(4.0).reshape(2, 2)
    assert equal_bits([square.t()], [square.t().contiguous()])


def test_lists_of_other_lengths_and_numbers_differ():
    assert not equal_bits([ONE], [ONE, ONE])
    assert not equal_bits([1], [2])
    assert not equal_bits([1], [ONE])
    assert not equal_bits([ONE], [1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_dtypes(dtype):
    tensor = torch.tensor([1, 0]).to(dtype)
    assert equal_bits([tensor], [tensor.clone()])
    assert not equal_bits([tensor], [torch.tensor([0, 0]).to(dtype)])


def test_empty_and_scalar_tensors():
    assert equal_bits([torch.empty(0), torch.tensor(1.0)], [torch.empty(0), torch.tensor(1.0)])
