"""Check which forms of products of few rows are chosen by measured times."""

from __future__ import annotations

import torch

from graphstreams.costs.few_rows import FormTime, ProductTimes, fastest_alone, fastest_beside, right_forms
from graphstreams.kernels.few_rows_forms import Form, MultiplyAndSum, Product, TensorCores

BFLOAT16, SMS = torch.bfloat16, 132
PRODUCT = Product(1, 2112, 7168, BFLOAT16, BFLOAT16, (7168, 1), (1, 7168))
MANY = MultiplyAndSum(1, 1024)  # 2112 blocks
SOME = TensorCores(32, 128, splits=4)  # 264 blocks
FEW = TensorCores(64, 128, swapped=True)  # 33 blocks


def timed(us: dict[Form, float], torch_us: float = 10.0, error: float = 1e-3, within: bool = True) -> ProductTimes:
    return ProductTimes(torch_us, 1e-3, tuple(FormTime(form, each, error, 1e-3, within) for form, each in us.items()))


def test_the_fastest_form_is_taken_if_it_is_faster_than_torchs_by_more_than_noise() -> None:
    taken = fastest_alone(timed({MANY: 8.0, SOME: 7.0}))
    assert taken is not None and taken.form == SOME
    assert fastest_alone(timed({MANY: 9.8, SOME: 9.71})) is None


def test_a_form_with_larger_errors_is_none() -> None:
    assert right_forms(timed({MANY: 8.0}, error=5e-3)) == []
    assert right_forms(timed({MANY: 8.0}, within=False)) == []
    assert fastest_alone(timed({MANY: 8.0}, error=5e-3)) is None


def test_nothing_is_right_beside_a_product_of_torchs_that_is_another_one() -> None:
    for error in (0.3, float("nan")):
        times = ProductTimes(10.0, error, (FormTime(MANY, 8.0, 1e-3, error, True),))
        assert right_forms(times) == [] and fastest_alone(times) is None and fastest_beside(PRODUCT, times, SMS) is None


def test_beside_others_a_form_of_few_blocks_may_take_longer() -> None:
    times = timed({MANY: 7.0, SOME: 8.0, FEW: 10.9})
    taken = fastest_beside(PRODUCT, times, SMS)
    assert taken is not None and taken.form == FEW
    taken = fastest_beside(PRODUCT, timed({MANY: 7.0, SOME: 8.0, FEW: 11.1}), SMS)
    assert taken is not None and taken.form == SOME
    assert fastest_beside(PRODUCT, timed({MANY: 7.0, SOME: 10.1, FEW: 11.1}), SMS) is None


def test_times_are_plain_data() -> None:
    times = timed({MANY: 7.0, FEW: 11.0})
    assert ProductTimes.of_dict(times.as_dict()) == times
