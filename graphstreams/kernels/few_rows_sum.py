"""Products with one to four rows by multiplying and summing, without tensor cores."""

import triton
import triton.language as tl

from graphstreams.kernels.few_rows_parts import SCALED, activations, finished


@triton.jit
def few_rows_sum(
    x, w, bias, scale_x, scale_w, out, m, n, k, x_stride_m, x_stride_k, w_stride_k, w_stride_n,
    scale_x_stride_m, scale_x_stride_k, scale_w_stride_k, scale_w_stride_n, steps, splits,
    rows: tl.constexpr, padded: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, partial: tl.constexpr,
    scaling: tl.constexpr, stages: tl.constexpr, direct: tl.constexpr,
):  # fmt: skip
    """Write `x @ w` into contiguous `out[m, n]`, or with `partial` the sum of each split into `out[splits, m, n]`.

    Programs take tiles of `columns` columns in turns. A split has `steps` steps of `depth` elements of K. Each thread sums its
    own elements over all steps; the sums of threads are added once, behind the last step. `rows` is `m`, from 1 to 4, and
    `padded` the power of 2 that is not less. With `direct` each thread loads the activations that it multiplies. `scaling` is
    "none", "output" (scales of rows and columns, or of tensors with strides of 0) or "block" (of 128 elements of K).
    """
    tiles = tl.cdiv(n, columns)
    for tile in range(tl.program_id(0), tiles * splits, tl.num_programs(0)):
        split = tile // tiles
        start = (tile % tiles) * columns
        column = start + tl.arange(0, columns)
        total_0 = tl.zeros((columns, depth), tl.float32)
        total_1, total_2, total_3 = total_0, total_0, total_0
        last = tl.minimum((split + 1) * steps, tl.cdiv(k, depth))
        for step in tl.range(split * steps, last, num_stages=stages):
            place = step * depth + tl.arange(0, depth)[None, :]
            address = w + column[:, None] * w_stride_n + place * w_stride_k
            weights = tl.load(address, (column[:, None] < n) & (place < k), other=0.0).to(tl.float32)
            block = step * depth // SCALED
            if scaling == "block":
                # All columns of a tile are in one block, because their number divides 128.
                weights *= tl.load(scale_w + (start // SCALED) * scale_w_stride_n + block * scale_w_stride_k)
            place = tl.broadcast_to(place, (columns, depth)) if direct else place
            row_0 = activations(
                x, scale_x, 0, place, k, block, x_stride_m, x_stride_k, scale_x_stride_m, scale_x_stride_k, scaling
            )
            total_0 += weights * row_0
            if rows > 1:
                row_1 = activations(
                    x, scale_x, 1, place, k, block, x_stride_m, x_stride_k, scale_x_stride_m, scale_x_stride_k, scaling
                )
                total_1 += weights * row_1
            if rows > 2:
                row_2 = activations(
                    x, scale_x, 2, place, k, block, x_stride_m, x_stride_k, scale_x_stride_m, scale_x_stride_k, scaling
                )
                total_2 += weights * row_2
            if rows > 3:
                row_3 = activations(
                    x, scale_x, 3, place, k, block, x_stride_m, x_stride_k, scale_x_stride_m, scale_x_stride_k, scaling
                )
                total_3 += weights * row_3
        row = tl.arange(0, padded)
        total = tl.broadcast_to(tl.sum(total_0, 1)[None, :], (padded, columns))
        if rows > 1:
            total = tl.where(row[:, None] == 1, tl.sum(total_1, 1)[None, :], total)
        if rows > 2:  # of which the sums of a fourth that is not there are 0
            total = tl.where(row[:, None] == 2, tl.sum(total_2, 1)[None, :], total)
            total = tl.where(row[:, None] == 3, tl.sum(total_3, 1)[None, :], total)
        if not partial:
            total = finished(total, bias, scale_x, scale_w, row, column, m, n, scale_x_stride_m, scale_w_stride_n, scaling)
        valid = (row[:, None] < m) & (column[None, :] < n)
        tl.store(out + split * m * n + row[:, None] * n + column[None, :], total.to(out.dtype.element_ty), valid)
