"""Check that synthetic inputs have the layout asked for, and leave the caller's random numbers alone."""

import json

import pytest
import torch

from graphstreams.autotuning.synthetic_inputs import Layout, synthesize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.float8_e4m3fn])
def test_a_tensor_is_made_from_its_description(dtype: torch.dtype) -> None:
    layout = Layout.of(torch.empty_strided((2, 3), (1, 2), dtype=dtype))
    value = synthesize(json.loads(json.dumps(vars(layout))))
    assert (tuple(value.shape), value.stride(), value.dtype, str(value.device)) == ((2, 3), (1, 2), dtype, "cpu")


def test_floats_are_random_and_always_the_same_and_integers_are_zero() -> None:
    before = torch.get_rng_state()
    first, second = (Layout((2, 3), (3, 1), "float32", "cpu").synthesize() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all() and first.unique().numel() == 6
    assert not Layout((4,), (1,), "int64", "cpu").synthesize().any()


def test_numbers_stay_what_they_are() -> None:
    assert [synthesize(number) for number in (7, 0.5, True)] == [7, 0.5, True]
