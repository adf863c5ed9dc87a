"""Compare two times by paired samples: the median of their ratios, an interval around it, and whether a bar holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 6  # samples from which an interval of 95 % exists


@dataclass(frozen=True)
class PairedRatio:
    """The median of paired ratios, with its interval of at least 95 %."""

    median: float
    low: float
    high: float
    pairs: int

    @staticmethod
    def of(first: Sequence[float], second: Sequence[float]) -> PairedRatio:
        """Return the ratio of first to second samples, pair by pair. Raises ValueError for fewer than FEWEST pairs."""
        ratios = [one / other for one, other in zip(first, second, strict=True)]
        return PairedRatio(statistics.median(ratios), *median_interval(ratios), len(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f}x ({self.low:.3f}-{self.high:.3f})"


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that have the median between them with a probability of at least 95 %.

    As many samples are left out at either end as at most 2.5 % of binomial draws with probability 1/2 allow. Raises ValueError
    for fewer than FEWEST samples.
    """
    count = len(samples)
    if count < FEWEST:
        raise ValueError(f"{count} samples have no interval of 95 %: at least {FEWEST} are needed")
    left_out, draws = 0, 1 + count  # draws with at most one success, of 2 ** count
    while 40 * draws <= 2**count:
        left_out += 1
        draws += math.comb(count, left_out + 1)
    ascending = sorted(samples)
    return ascending[left_out], ascending[count - 1 - left_out]


def verdict(ratio: PairedRatio, control: PairedRatio, bar: float) -> str:
    """Return whether a ratio reaches `bar`: "holds", "fails" or "undecided".

    `control` compares a function with itself. A ratio under the bar is undecided if its interval contains the bar and the
    control is as far from 1 as the ratio is.
    """
    if ratio.median >= bar:
        return "holds"
    noisy = abs(control.median - 1) >= 1 - ratio.median
    return "undecided" if ratio.low <= bar <= ratio.high and noisy else "fails"
