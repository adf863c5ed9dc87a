"""The sum of what the splits of a product left, always in the same order."""

import triton
import triton.language as tl

from graphstreams.kernels.few_rows_parts import finished


@triton.jit
def few_rows_splits(
    partial, bias, scale_x, scale_w, out, m, n, scale_x_stride_m, scale_w_stride_n,
    splits: tl.constexpr, columns: tl.constexpr, scaling: tl.constexpr,
):  # fmt: skip
    """Write the sum over the first dimension of `partial[splits, m, n]` into contiguous `out[m, n]`, from the first split on.

    With `scaling` "output" the sum is multiplied by the scales of its row and its column; then the bias is added.
    """
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    row = tl.program_id(1) + tl.arange(0, 1)
    valid = column[None, :] < n
    place = row[:, None] * n + column[None, :]
    total = tl.load(partial + place, valid, other=0.0)
    for split in tl.static_range(1, splits):
        total += tl.load(partial + split * m * n + place, valid, other=0.0)
    total = finished(total, bias, scale_x, scale_w, row, column, m, n, scale_x_stride_m, scale_w_stride_n, scaling)
    tl.store(out + place, total.to(out.dtype.element_ty), valid)
