"""Hold modules whose wrappers have forms that those of the samples lack."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

Names = tuple[str, ...]


@torch.library.custom_op("text_mutants::halves", mutates_args=())
def halves(x: Tensor) -> list[Tensor]:
    return [x[: len(x) // 2].clone(), x[len(x) // 2 :].clone()]


@halves.register_fake
def _(x: Tensor) -> list[Tensor]:
    return [torch.empty_like(x[: len(x) // 2]), torch.empty_like(x[len(x) // 2 :])]


@triton.jit
def user_add(x, y, out, n, block: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


@triton.jit
def user_increment(x, n, block: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + i, tl.load(x + i, i < n) + 1, i < n)


USER_KERNELS: Mapping[str, tuple[Names, Names]] = {
    "user_add": (("x", "y"), ("out",)),
    "user_increment": (("x",), ("x",)),
}


class _Projections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wa, self.wb, self.wc = (nn.Linear(64, 64, bias=False) for _ in range(3))


class Lists(_Projections):
    """Operators that return a list, of which one element lives longer."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        first, second = halves(self.wa(x))
        parts = torch.ops.aten.split_copy.Tensor(self.wb(y), 2)
        return first.relu(), self.wc(second), parts[0] + 1, self.wb(parts[1])


class TwoLists(_Projections):
    """Elements of two lists that kernels of several streams read, early and late."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        a, b = halves(self.wa(x))
        c, d = torch.ops.aten.split_copy.Tensor(self.wb(y), 2)
        e = self.wc(b)
        return self.wa(a).relu(), self.wb(e).relu(), self.wc(c + 1), self.wa(d).sin() @ e.t(), a + d


class UserKernels(_Projections):
    """Kernels that the model's author wrote: one fills a temporary, one changes an input."""

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        a, y = self.wa(x), self.wc(cache)
        out = torch.zeros_like(a)
        user_add[(1,)](a, x, out, 256, block=256)
        user_increment[(1,)](cache, 256, block=256)
        return out * 2, y, self.wb(cache), self.wb(x)


class Shared(_Projections):
    """Inputs of any alignment that kernels on several streams read, one of them by views."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        a, b = self.wa(x) + y, self.wb(x[rows]) * y
        return a, b.softmax(-1), (z.cumsum(0) - x).sum(-1), self.wc(z[rows])


class Convolutions(nn.Module):
    """Library kernels with and without `out=`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, bias=False)
        self.head, self.side = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        both = self.first(x).relu() + self.second(x)
        values, order = torch.sort(self.head(y), -1)
        return both, values + self.side(y), order


class TwoProducts(nn.Module):
    """Products of few rows and columns, which max-autotune may split along K, and what is computed from both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(16384, 32, bias=False, dtype=torch.bfloat16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).relu() + self.b(x).sin()
