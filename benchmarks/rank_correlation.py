"""Rank correlations of two lists of numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values have the mean of their ranks."""
    return statistics.correlation(_ranks(xs), _ranks(ys))


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(round(v, 6) for v in values)):
        places.setdefault(value, []).append(place)
    return [statistics.fmean(places[round(v, 6)]) for v in values]


def kendall(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Kendall's tau-b."""
    pairs = [(_sign(x - v), _sign(y - w)) for (x, y), (v, w) in combinations(zip(xs, ys, strict=True), 2)]
    in_xs, in_ys = sum(x != 0 for x, _ in pairs), sum(y != 0 for _, y in pairs)
    return float(sum(x * y for x, y in pairs) / (in_xs * in_ys) ** 0.5)


def _sign(value: float) -> int:
    return 0 if abs(value) < 1e-6 else 1 if value > 0 else -1
