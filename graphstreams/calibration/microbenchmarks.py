"""The modules that a calibration times: one kernel of each sort that the roofline tells apart, in many sizes."""

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
FULL = ((64, 512, 512), (64, 512, 2048), (256, 1024, 1024), (2048, 128, 432), (2048, 2048, 2048))  # M, N, K of float32
FULL_BATCHED = ((1024, 429, 1, 32), (1024, 429, 1, 4), (1024, 32, 1, 432), (32, 64, 512, 128))  # batch, M, N, K
# Batch, heads, queries, keys.
ATTENTION = ((1, 32, 1, 1024), (1, 8, 8, 1500), (2, 12, 256, 256), (4, 12, 64, 64), (1, 16, 2048, 2048))
# Channels, filters, side of an image, of a filter, stride: in two dimensions, which Inductor puts into the layout of cuDNN.
CONVOLUTIONS = ((64, 64, 56, 3, 1), (256, 256, 28, 3, 1), (512, 512, 14, 3, 1), (256, 512, 28, 1, 2))
# Channels, filters, groups, lengths of a signal and a filter, stride: in one dimension, which it leaves as they are.
SIGNALS = ((512, 512, 1, 1600, 3, 2), (512, 512, 1, 200, 2, 2), (80, 384, 1, 3000, 3, 1), (64, 512, 1, 1024, 1, 1),
           (3, 768, 1, 50176, 256, 256), (3, 768, 1, 50176, 1024, 1024), (768, 768, 16, 228, 128, 1),
           (256, 256, 8, 400, 16, 1))  # fmt: skip
ROWS_TAKEN = ((1024, 16), (4096, 64), (16384, 256))  # of a table, and elements of each


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


def full_products() -> Operations:
    """Return matrix products in float32, single ones and batches, of which some multiply matrices by vectors."""
    module = Operations()
    for m, n, k in FULL:
        module.add(functional.linear, *(_random(*shape, dtype=torch.float32) for shape in ((m, k), (n, k))))
    for batch, m, n, k in FULL_BATCHED:
        # One left factor for all products of the batch.
        left, right = (_random(*shape, dtype=torch.float32) for shape in ((1, m, k), (batch, k, n)))
        module.add(_shared_product, left, right)
    return module


def attention() -> Operations:
    """Return attention of one query, of few and of many, in 16 bits."""
    module = Operations()
    for batch, heads, queries, keys in ATTENTION:
        tensors = (_random(batch, heads, length, 64) for length in (queries, keys, keys))
        module.add(functional.scaled_dot_product_attention, *tensors)
    return module


def convolutions() -> Operations:
    """Return convolutions in 16 bits of images, whose channels are last."""
    module = Operations()
    for channels, filters, length, side, stride in CONVOLUTIONS:
        tensors = _random(1, channels, length, length), _random(filters, channels, side, side)
        image, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors)
        module.add(partial(functional.conv2d, stride=stride), image, weight)
    return module


def signals() -> Operations:
    """Return convolutions in 16 bits of signals, some of few channels, some in groups."""
    module = Operations()
    for channels, filters, groups, length, width, stride in SIGNALS:
        tensors = _random(1, channels, length), _random(filters, channels // groups, width)
        module.add(partial(functional.conv1d, stride=stride, groups=groups), *tensors)
    return module


def gathers() -> Operations:
    """Return kernels that take rows of a table."""
    module = Operations()
    for rows, elements in ROWS_TAKEN:
        module.add(lambda table, taken: table[taken] * 1.5, _random(65536, elements), torch.randint(65536, (rows,)))
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
    "matrix products in float32": full_products,
    "attention": attention,
    "convolutions": convolutions,
    "convolutions in one dimension": signals,
    "gathers": gathers,
}


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def _shared_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.expand(right.shape[0], -1, -1), right)


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
