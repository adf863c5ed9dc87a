"""Products with up to 64 rows by tensor cores."""

import triton
import triton.language as tl

from graphstreams.kernels.few_rows_parts import SCALED, finished


@triton.jit
def few_rows_dot(
    x, w, bias, scale_x, scale_w, out, m, n, k, x_stride_m, x_stride_k, w_stride_k, w_stride_n,
    scale_x_stride_m, scale_x_stride_k, scale_w_stride_k, scale_w_stride_n, steps, splits,
    rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, partial: tl.constexpr,
    scaling: tl.constexpr, stages: tl.constexpr, swapped: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    """Write `x @ w` into contiguous `out[m, n]`, or with `partial` the sum of each split into `out[splits, m, n]`.

    Programs take tiles of `columns` columns in turns. A split has `steps` steps of `depth` elements of K. `rows` is at least
    `m`. With `swapped` the product is that of the transposes, so that the weight is the operand with many rows. `scaling` is
    "none", "output" (scales of rows and columns, or of tensors with strides of 0) or "block" (of 128 elements of K). `exact`
    is how many products of float8 tensor cores sum before they go to float32, None for other types.
    """
    tiles = tl.cdiv(n, columns)
    row = tl.arange(0, rows)
    for tile in range(tl.program_id(0), tiles * splits, tl.num_programs(0)):
        split = tile // tiles
        start = (tile % tiles) * columns
        column = start + tl.arange(0, columns)
        total = tl.zeros((columns, rows) if swapped else (rows, columns), tl.float32)
        last = tl.minimum((split + 1) * steps, tl.cdiv(k, depth))
        for step in tl.range(split * steps, last, num_stages=stages):
            place = step * depth + tl.arange(0, depth)
            if swapped:
                address = w + column[:, None] * w_stride_n + place[None, :] * w_stride_k
                left = tl.load(address, (column[:, None] < n) & (place[None, :] < k), other=0.0)
                address = x + row[None, :] * x_stride_m + place[:, None] * x_stride_k
                right = tl.load(address, (row[None, :] < m) & (place[:, None] < k), other=0.0)
            else:
                address = x + row[:, None] * x_stride_m + place[None, :] * x_stride_k
                left = tl.load(address, (row[:, None] < m) & (place[None, :] < k), other=0.0)
                address = w + column[None, :] * w_stride_n + place[:, None] * w_stride_k
                right = tl.load(address, (column[None, :] < n) & (place[:, None] < k), other=0.0)
            if scaling == "block":
                block = step * depth // SCALED
                scales = tl.load(scale_x + row * scale_x_stride_m + block * scale_x_stride_k, row < m, other=0.0)
                # All columns of a tile are in one block, because their number divides 128.
                scales *= tl.load(scale_w + (start // SCALED) * scale_w_stride_n + block * scale_w_stride_k)
                scales = scales[None, :] if swapped else scales[:, None]
                total += tl.dot(left, right, max_num_imprecise_acc=exact) * scales
            else:
                total = tl.dot(left, right, total, max_num_imprecise_acc=exact)
        if swapped:
            total = tl.trans(total)
        if not partial:
            total = finished(total, bias, scale_x, scale_w, row, column, m, n, scale_x_stride_m, scale_w_stride_n, scaling)
        valid = (row[:, None] < m) & (column[None, :] < n)
        tl.store(out + split * m * n + row[:, None] * n + column[None, :], total.to(out.dtype.element_ty), valid)
