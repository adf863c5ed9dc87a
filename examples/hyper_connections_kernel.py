"""The mixing weights of DeepSeek V4's hyper-connections as one Triton kernel.

In plain PyTorch Sinkhorn's iteration is some forty kernels of Inductor's, two reductions an iteration, and engines have one for
all of it. The kernel computes what `deepseek_residual.mixing_weights` defines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def mixing_kernel(  # type: ignore[no-untyped-def]
    products, squares, base, scale, before, after, mix, epsilon, COUNT: tl.constexpr, ITERATIONS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Write the weights of one token, a program each; arrays are contiguous fp32, as `mixing_weights_on_cuda` makes them."""
    token = tl.program_id(0)
    copy = tl.arange(0, COUNT)
    row, column = copy[:, None], copy[None, :]
    entry = row * COUNT + column
    own = products + token * (2 + COUNT) * COUNT
    factor = tl.rsqrt(tl.sum(tl.load(squares + token * COUNT + copy), axis=0) / COUNT + epsilon)
    first = tl.load(own + copy) * factor * tl.load(scale) + tl.load(base + copy)
    second = tl.load(own + COUNT + copy) * factor * tl.load(scale + 1) + tl.load(base + COUNT + copy)
    third = tl.load(own + 2 * COUNT + entry) * factor * tl.load(scale + 2) + tl.load(base + 2 * COUNT + entry)
    tl.store(before + token * COUNT + copy, tl.sigmoid(first) + epsilon)
    tl.store(after + token * COUNT + copy, 2 * tl.sigmoid(second))
    powers = tl.exp(third - tl.max(third, axis=1)[:, None])
    weights = powers / tl.sum(powers, axis=1)[:, None] + epsilon
    weights = weights / (tl.sum(weights, axis=0)[None, :] + epsilon)
    for _ in range(ITERATIONS - 1):
        weights = weights / (tl.sum(weights, axis=1)[:, None] + epsilon)
        weights = weights / (tl.sum(weights, axis=0)[None, :] + epsilon)
    tl.store(mix + token * COUNT * COUNT + entry, weights)


def mixing_weights_on_cuda(
    products: Tensor, squares: Tensor, base: Tensor, scale: Tensor, iterations: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `deepseek_residual.mixing_weights` does, for tensors on CUDA."""
    tokens, n = squares.shape
    before, after = (torch.empty_like(squares) for _ in range(2))
    mix = products.new_empty(tokens, n, n)
    mixing_kernel[(tokens,)](products, squares, base, scale, before, after, mix, epsilon, n, iterations, num_warps=1)
    return before, after, mix
