"""Check medians of paired ratios, their intervals and verdicts on data worked out by hand."""

from __future__ import annotations

import pytest
from paired import PairedRatio, median_interval, verdict


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        (6, 1, 6),  # 1 of 64 draws has no success: 1.6 %; 7 of 64 have at most one: 10.9 %
        (8, 1, 8),  # 9 of 256 have at most one: 3.5 %
        (9, 2, 8),  # 10 of 512 have at most one: 1.95 %; 46 have at most two: 9.0 %
        (10, 2, 9),  # 11 of 1024: 1.1 %; 56: 5.5 %
        (12, 3, 10),  # 79 of 4096 have at most two: 1.9 %; 299 have at most three: 7.3 %
        (200, 86, 115),  # the normal approximation says 100 - 1.96 * 7.07 = 86.1
    ],
)
def test_an_interval_is_between_order_statistics(count: int, low: int, high: int) -> None:
    samples = [float(number) for number in range(count, 0, -1)]
    assert median_interval(samples) == (low, high)


def test_too_few_samples_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 samples have no interval of 95 %"):
        median_interval([1.0] * 5)


def test_a_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    """The clock halves after half of the pairs; each pair has the ratio 1.1, but for one outlier."""
    second = [10.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0, 20.0, 20.0]
    first = [11.0, 11.0, 11.0, 11.0, 22.0, 22.0, 22.0, 22.0, 200.0]
    found = PairedRatio.of(first, second)
    assert (found.median, found.low, found.high, found.pairs) == (pytest.approx(1.1), pytest.approx(1.1), pytest.approx(1.1), 9)


def test_the_ratios_of_six_pairs() -> None:
    found = PairedRatio.of([98.0, 99.0, 100.0, 101.0, 102.0, 103.0], [100.0] * 6)
    assert (found.median, found.low, found.high) == (pytest.approx(1.005), pytest.approx(0.98), pytest.approx(1.03))
    assert str(found) == "1.005x (0.980-1.030)"


@pytest.mark.parametrize(
    ("ratio", "control", "expected"),
    [
        ((1.10, 1.05, 1.15), 1.0, "holds"),
        ((0.99, 0.90, 1.10), 1.0, "holds"),
        ((0.985, 0.97, 1.00), 1.02, "undecided"),  # 1.5 % slower; the control is off by 2 %
        ((0.985, 0.97, 1.00), 0.98, "undecided"),
        ((0.985, 0.97, 1.00), 1.01, "fails"),  # the control is off by 1 % only
        ((0.985, 0.98, 0.989), 1.05, "fails"),  # the interval is under the bar
        ((0.80, 0.70, 0.995), 1.10, "fails"),
    ],
)
def test_a_ratio_under_the_bar_is_undecided_only_if_the_control_is_as_far_off(
    ratio: tuple[float, float, float], control: float, expected: str
) -> None:
    assert verdict(PairedRatio(*ratio, 200), PairedRatio(control, 0.9, 1.1, 200), 0.99) == expected
