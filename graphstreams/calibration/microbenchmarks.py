"""The modules that a calibration times: matrix products, pointwise kernels, reductions and selections of many sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Weights of decode, N x K: projections of DeepSeek V3.2, whole and cut by eight, and square ones.
WEIGHTS = ((192, 7168), (2112, 7168), (3072, 1536), (8192, 1536), (24576, 1536), (7168, 2048), (7168, 16384),
           (1024, 1024), (4096, 4096))  # fmt: skip
ROWS = (1, 16, 64)
MANY_ROWS = ((2048, 7168, 2048), (4096, 4096, 7168))  # M, N, K, bound by arithmetic
BATCHED = ((16, 1, 512, 128), (128, 1, 512, 128), (128, 1, 128, 512), (16, 64, 512, 128), (32, 64, 4096, 128),
           (64, 16, 2048, 576))  # fmt: skip  # batch, M, N, K
SMALL = (2**9, 2**12, 2**15, 2**18)  # elements of 2 bytes: 1 KB to 512 KB, which stay in the L2 cache
LARGE = (2**21, 2**23, 2**25)  # 4 MB to 64 MB
SMALL_ROWS = ((1, 512), (1, 2048), (1, 7168), (16, 1536), (64, 512), (64, 2048), (64, 7168))  # rows, and elements of each
LARGE_ROWS = ((1024, 2048), (4096, 2048), (16384, 2048))  # rows, and elements of each
SELECTIONS = ((1, 4096), (16, 4096), (64, 4096), (256, 4096), (1, 65536), (64, 65536))  # rows, and elements of each
DISTANCES = (16, 32, 64)


class Operations(nn.Module):
    """A sequence of independent operations, each of which is one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []  # what to call the module with
        self.calls: list[tuple[Callable[..., Any], list[int]]] = []  # each operation with the places of its inputs

    def add(self, operation: Callable[..., Any], *tensors: Tensor) -> None:
        """Add a call of `operation` on tensors, which other calls may have too."""
        places = []
        for tensor in tensors:
            known = [i for i, each in enumerate(self.inputs) if each is tensor]
            places.append(known[0] if known else len(self.inputs))
            self.inputs += [] if known else [tensor]
        self.calls.append((operation, places))

    def forward(self, *tensors: Tensor) -> list[Any]:
        """Return the result of each operation."""
        return [operation(*[tensors[i] for i in places]) for operation, places in self.calls]


def products() -> Operations:
    """Return matrix products. Before a weight is read again all others are, so that it comes from memory, not from a cache."""
    module = Operations()
    weights = [_random(*shape) for shape in WEIGHTS]
    for rows in ROWS:
        for weight in weights:
            module.add(functional.linear, _random(rows, weight.shape[1]), weight)
    for m, n, k in MANY_ROWS:
        module.add(functional.linear, _random(m, k), _random(n, k))
    for batch, m, n, k in BATCHED:
        module.add(torch.bmm, _random(batch, m, k), _random(batch, k, n))
    return module


def memory_bound(counts: Sequence[int], rows: Sequence[tuple[int, int]]) -> Operations:
    """Return pointwise kernels over each of `counts` elements, and reductions over the last dimension of `rows`."""
    module = Operations()
    for count in counts:
        module.add(_activated, _random(count))
        module.add(_widened, _random(count))
        module.add(torch.add, _random(count), _random(count))
    for shape in rows:
        for operation in (_rms_norm, _layer_norm, _softmax, partial(torch.sum, dim=-1)):
            module.add(operation, _random(*shape))
    return module


def selections() -> Operations:
    """Return calls of top-k, which takes few thread blocks."""
    module = Operations()
    for shape in SELECTIONS:
        module.add(lambda x: torch.topk(x, x.shape[-1] // 2, sorted=False).indices, _random(*shape, dtype=torch.float32))
    return module


def library_operators() -> Operations:
    """Return calls of sort, which takes few thread blocks too, and of an operator with next to no work."""
    module = Operations()
    for shape in SELECTIONS:
        module.add(lambda x: torch.sort(x).values, _random(*shape, dtype=torch.float32))
    for count in DISTANCES:
        module.add(partial(torch.cdist, p=1.0), *(_random(count, 16, dtype=torch.float32) for _ in range(2)))
    return module


GROUPS: dict[str, Callable[[], Operations]] = {
    "matrix products": products,
    "small pointwise kernels and reductions": lambda: memory_bound(SMALL, SMALL_ROWS),
    "large pointwise kernels and reductions": lambda: memory_bound(LARGE, LARGE_ROWS),
    "top-k": selections,
    "sort and distances": library_operators,
}


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def _activated(x: Tensor) -> Tensor:
    return functional.silu(x) * 1.5


def _widened(x: Tensor) -> Tensor:
    return x.float() * 1.5


def _rms_norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:])


def _layer_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)
