"""aten's top-k on CUDA, written out: which elements it takes, and in which order without `sorted`."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keys_of(row: Tensor) -> list[int]:
    """Return numbers in the order in which aten compares the elements of a row: by their bits, and every NaN is largest."""
    width = 8 * row.element_size()
    if row.dtype == torch.uint8:
        return row.tolist()
    numbers = bits(row).tolist()
    if not row.dtype.is_floating_point:
        return numbers
    # Of negative numbers the larger magnitude is the smaller: the bits below the sign count downwards.
    ordered = [number if number >= 0 else -(number + 2 ** (width - 1)) - 1 for number in numbers]
    return [2 ** (width - 1) if nan else each for each, nan in zip(ordered, row.isnan().tolist(), strict=True)]


def reference(x: Tensor, k: int, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Return values and indices `[rows, k]`: the elements beyond the k-th as they stand, then those equal to it."""
    picked = []
    for row in x:
        keys = [key if largest else -key for key in keys_of(row)]
        kth = sorted(keys, reverse=True)[k - 1]
        beyond = [place for place, key in enumerate(keys) if key > kth]
        equal = [place for place, key in enumerate(keys) if key == kth]
        picked.append((beyond + equal)[:k])
    indices = torch.tensor(picked, dtype=torch.int64, device=x.device).reshape(len(x), k)
    return bits(x).gather(1, indices).view(x.dtype), indices


def bits(x: Tensor) -> Tensor:
    """Return the bits of a tensor as integers; torch's own gather on the CPU gives NaN other bits."""
    return x.view(_INTEGERS[x.element_size()])
