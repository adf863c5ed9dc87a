"""Functions for the kernels of few rows: a row of activations, and what follows the sum of a tile.

They read memory and return values from which no kernel computes an address. Otherwise torch would take what they read for
written (torch 2.15.0, `_higher_order_ops/triton_kernel_wrap.py`, identify_accessed_tensors).
"""

import triton
import triton.language as tl

SCALED = tl.constexpr(128)  # neighbours along K, and along N of the weight, that share a scale of blocks


@triton.jit
def activations(x, scale_x, row, place, k, block, stride_m, stride_k, scale_stride_m, scale_stride_k, scaling: tl.constexpr):
    """Return the elements `place` of a row in float32, times the scale of `block` if blocks have scales."""
    loaded = tl.load(x + row * stride_m + place * stride_k, place < k, other=0.0).to(tl.float32)
    if scaling == "block":
        loaded *= tl.load(scale_x + row * scale_stride_m + block * scale_stride_k)
    return loaded


@triton.jit
def finished(total, bias, scale_x, scale_w, row, column, m, n, scale_stride_m, scale_stride_n, scaling: tl.constexpr):
    """Return a tile of sums, multiplied by the scales of its rows and columns if there are such, plus the bias."""
    if scaling == "output":
        total = total * tl.load(scale_x + row * scale_stride_m, row < m, other=0.0)[:, None]
        total = total * tl.load(scale_w + column * scale_stride_n, column < n, other=0.0)[None, :]
    if bias is not None:
        total += tl.load(bias + column, column < n, other=0.0).to(tl.float32)[None, :]
    return total
