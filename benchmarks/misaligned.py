"""Inputs past an aligned address, and modules with independent branches, each of which uses one in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, ROWS = 256, 64
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn, "int8": torch.int8}
WIDE, ALL = ("bf16", "fp32"), tuple(DTYPES)

Forward = Callable[["Module", Tensor, Tensor, Tensor], Any]


@dataclass(frozen=True)
class Kind:
    """A way to use the subject, the input that may be misaligned."""

    forward: Forward
    dtypes: tuple[str, ...] = WIDE  # of the subject
    shape: tuple[int, ...] = (ROWS, WIDTH)
    row: int | None = None  # elements from one row to the next, if the subject is not contiguous
    parameter: bool = False  # a parameter of the module rather than an argument
    static: bool = False  # marked as an input whose address stays, as a static cache is
    offsets: tuple[tuple[int, int], ...] = ()  # pairs of those in the compile and in the call; empty: all pairs


class Module(nn.Module):
    """A module of three linear layers in independent branches, which a kind uses in its own way."""

    def __init__(self, kind: Kind, dtype: torch.dtype, device: str, subject: Tensor | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH, bias=False, device=device, dtype=dtype) for _ in range(3))
        self.subject = None if subject is None else nn.Parameter(subject, requires_grad=False)

    def forward(self, subject: Tensor | None, y: Tensor, z: Tensor) -> Any:
        """Return what the kind makes of the subject, or of the parameter, and of two aligned inputs."""
        used = subject if self.subject is None else self.subject
        assert used is not None
        return self.kind.forward(self, used, y, z)


def _one_kernel(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    return m.a(y.relu()), m.b(z.sigmoid()), s.to(y.dtype).exp().sum(-1)


def _several_streams(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    wide = s.to(y.dtype)
    return m.a(wide.relu() * 2), m.b((wide + 1).sigmoid()), m.c(wide.tanh() * 3), (y - wide).sum(-1), z.sum(-1)


def _product(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    return m.a(s), m.b(s).relu() + y, m.c(z.tanh())


def _passed_through(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    return s, m.a(s.to(y.dtype).relu()), m.b(y.sigmoid()), m.c(z.tanh())


def _cache_write(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    s[torch.arange(8, device=s.device)] = m.a(y.relu())[:8].to(s.dtype)
    return m.b(z.sigmoid()), m.c(y.tanh()), s.to(y.dtype).sum(-1)


def _updated(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    before = m.a(s.to(y.dtype).relu())
    s.copy_((s.to(y.dtype) * 2).to(s.dtype))
    return before, m.b(z.sigmoid()), m.c(y.tanh())


def _only_viewed(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    return s.t(), m.a(y.relu()), m.b(z.sigmoid())


def _added(m: Module, s: Tensor, y: Tensor, z: Tensor) -> Any:
    return m.a(y.relu()) * s, m.b(z.sigmoid()) + s, m.c(z.tanh())


SAME = ((0, 0), (1, 1), (3, 3), (8, 8))
KINDS: Mapping[str, Kind] = {
    "read by one kernel": Kind(_one_kernel, ALL),
    "read on several streams": Kind(_several_streams, ALL),
    "read by products": Kind(_product),
    "passed through": Kind(_passed_through, ("bf16", "fp32", "fp8")),
    "cache write": Kind(_cache_write, ("bf16", "fp32", "fp8")),
    "updated as a whole": Kind(_updated),
    "only viewed": Kind(_only_viewed),
    "one element": Kind(_added, WIDE, (1,)),
    "slice, not contiguous": Kind(_several_streams, WIDE, row=WIDTH + 64),
    "cache write, static address": Kind(_cache_write, WIDE, static=True, offsets=SAME),
    "parameter": Kind(_added, WIDE, parameter=True, offsets=SAME),
    "parameter, moved after the compile": Kind(_added, ("bf16",), parameter=True, offsets=((0, 1),)),
}


def subject_of(kind: Kind, dtype: torch.dtype, offset: int, seed: int, device: str) -> Tensor:
    """Return a random subject that begins `offset` elements past an aligned address."""
    shape, row = kind.shape, kind.row or kind.shape[-1]
    length = (shape[0] - 1) * row + shape[-1] if len(shape) > 1 else shape[0]
    values = _random(length, dtype, seed, device)
    memory = torch.zeros(length + 64, dtype=dtype, device=device)
    memory[offset : offset + length].copy_(values)
    strides = (row, 1) if len(shape) > 1 else (1,)
    return memory.as_strided(shape, strides, offset)


def others_of(dtype: torch.dtype, seed: int, device: str) -> list[Tensor]:
    """Return the two aligned inputs."""
    return [_random(ROWS * WIDTH, dtype, seed + i, device).view(ROWS, WIDTH) for i in (1, 2)]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the branches beside a subject of this one."""
    return torch.float32 if dtype == torch.float32 else torch.bfloat16


def _random(length: int, dtype: torch.dtype, seed: int, device: str) -> Tensor:
    rng = torch.Generator(device).manual_seed(seed)
    if dtype == torch.int8:
        return torch.randint(-8, 8, (length,), dtype=dtype, generator=rng, device=device)
    return torch.randn(length, generator=rng, device=device).to(dtype)
