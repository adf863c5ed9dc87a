"""Top-k of rows by one launch, with one program a row that keeps the whole row in registers."""

import triton
import triton.language as tl

from graphstreams.kernels.selection import counts_before, largest_key, nth_largest, ordered_keys


@triton.jit
def top_k_row(
    x, values, indices, n, k, row_stride, stride, largest: tl.constexpr, lines: tl.constexpr, columns: tl.constexpr
):  # fmt: skip
    """Write the k largest, or smallest, of each row of `n` elements into contiguous rows of `values` and `indices`.

    In aten's order: those beyond the k-th as they stand in the row, then those equal to it. `lines * columns` is at least `n`,
    and at most 32,768.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, lines)[:, None] * columns + tl.arange(0, columns)[None, :]
    inside = place < n
    element = tl.load(x + row * row_stride + place * stride, inside, other=0)
    top = largest_key(element)
    keys = tl.where(inside, ordered_keys(element, largest), 0)
    kth = nth_largest(keys, k, top - top, top)
    beyond = keys > kth
    equal = inside & (keys == kth)
    before, counted = counts_before(beyond, equal)
    slot = tl.where(beyond, before & 0xFFFF, (counted & 0xFFFF) + ((before >> 16) & 0xFFFF))
    chosen = beyond | (equal & (slot < k))
    tl.store(values + row * k + slot, element, chosen)
    tl.store(indices + row * k + slot, place.to(tl.int64), chosen)
