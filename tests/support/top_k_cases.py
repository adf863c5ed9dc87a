"""Rows for top-k: random ones of any type, and ones with ties, infinities, NaN and zeros of both signs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphstreams.kernels.top_k import Form, OneProgram, SeveralPrograms

# One with a share that is empty, and one with a list that is nearly always too short.
FORMS: tuple[Form, ...] = (OneProgram(4), SeveralPrograms(programs=7), SeveralPrograms(programs=3, slack=9, spare=0.01))


def random_rows(rows: int, length: int, dtype: torch.dtype, seed: int, device: str = "cpu") -> Tensor:
    """Return random rows, in floating point with some NaN, infinities and zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        high = min(limits.max, 2**62)
        return torch.randint(max(limits.min, -high), high, (rows, length), generator=generator).to(dtype).to(device)
    x = torch.randn(rows, length, generator=generator).to(dtype)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0], dtype=dtype)
    chosen = torch.rand(rows, length, generator=generator) < 0.05
    return torch.where(chosen, special[torch.randint(5, (rows, length), generator=generator)], x).to(device)


def _one_above(x: Tensor) -> Tensor:
    x[:, -2] = 1
    return x


def _zeros_of_both_signs(x: Tensor) -> Tensor:
    x[:, ::3] = -0.0
    return x


def _nan_of_many_bits(x: Tensor) -> Tensor:
    width = 8 * x.element_size()
    as_numbers = x.view({16: torch.int16, 32: torch.int32, 64: torch.int64}[width])
    as_numbers[:, ::2] = -1
    as_numbers[:, 1::5] = 2 ** (width - 1) - 1
    return x


def _tail(x: Tensor) -> Tensor:
    x.copy_(torch.linspace(-1, 1, x.shape[1]).to(x.dtype))
    x[:, x.shape[1] // 3 :] = -torch.inf
    return x


def _sorted(x: Tensor) -> Tensor:
    return x.copy_(torch.linspace(-3, 3, x.shape[1]).to(x.dtype))


def _period(x: Tensor) -> Tensor:
    return x.copy_((torch.arange(x.shape[1]) // 32 % 2).to(x.dtype))


_MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "all equal": lambda x: x,
    "all NaN": lambda x: x.fill_(float("nan")),
    "all at minus infinity": lambda x: x.fill_(-torch.inf),
    "one above": _one_above,
    "zeros of both signs": _zeros_of_both_signs,
    "NaN of many bits": _nan_of_many_bits,
    "a tail at minus infinity": _tail,
    "sorted": _sorted,
    "blocks in turns": _period,
}
ADVERSARIAL = tuple(_MADE)


def adversarial(name: str, rows: int, length: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Return rows `[rows, length]` of a floating-point type by one of the names of ADVERSARIAL."""
    return _MADE[name](torch.zeros(rows, length, dtype=dtype)).to(device)
