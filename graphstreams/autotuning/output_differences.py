"""Tells how far what two versions of one graph compute lies apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def largest_difference(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Return the largest difference of any two tensors as a share of the largest value of the first of them.

    Of whole numbers it is the share that differs. It is infinite if only one of two elements is a finite number, and equal
    elements don't differ, NaN included. What is no tensor, or is empty, doesn't count.
    """
    return max(map(_difference, first, second), default=0.0)


def _difference(first: Any, second: Any) -> float:
    if not isinstance(first, torch.Tensor) or not first.numel():
        return 0.0
    if not first.is_floating_point():
        return float((first != second).double().mean())
    one, other = first.double(), second.double()
    same = (one == other) | (one.isnan() & other.isnan())
    gap = (one - other).abs().masked_fill(same, 0.0).nan_to_num(math.inf, math.inf).max()
    return float(gap / one.abs().nan_to_num(0.0, 0.0).max().clamp(min=1e-300))
