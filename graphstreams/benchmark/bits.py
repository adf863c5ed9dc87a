"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def equal_bits(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two lists of tensors and numbers agree in type, shape and every bit, NaN included."""
    return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))


def _equal(first: Any, second: Any) -> bool:
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return type(first) is type(second) and first == second
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    as_bytes = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (first, second)]
    return torch.equal(*as_bytes)
