"""Top-k of long rows by three launches, with several programs a row and nothing that waits.

The first launch finds a range that holds the k-th element: each program finds where the k-th would be if its share of the row
were like the whole row; the k-th of the row lies between the least and the greatest of these. The second counts what lies
beyond, at and between the ends of this range in each chunk of the row, and lists what lies between them. The third finds the
k-th in the list, and each program writes what its chunk has of the result, at a place that follows from the counts.

No kernel gives a pointer to a function: torch would take the memory behind it for written, if an address depends on what the
function returns (torch 2.15.0, `_higher_order_ops/triton_kernel_wrap.py`, identify_accessed_tensors).
"""

import triton
import triton.language as tl

from graphstreams.kernels.selection import counts_before, largest_key, nth_largest, ordered_keys, range_of_nth_largest

SECTOR = tl.constexpr(32)  # bytes; neighbours in a sector are taken by one program, because they are loaded together
UNROLLED = tl.constexpr(4)  # tiles of a row that are on their way from memory at once


@triton.jit
def top_k_bounds(
    x, bounds, listed, n, k, row_stride, stride, slack, largest: tl.constexpr, programs: tl.constexpr, tile: tl.constexpr
):
    """Write for each program, of which `programs` share a row, the ends of a range of keys: `bounds[row, 2, programs]`.

    Each takes a share of the row that is spread over all of it, so that it is like the row also if the row is sorted, has a
    tail of equal elements, or neighbours that are alike. Sets `listed[row]` to 0.
    """
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block: tl.constexpr = SECTOR * 8 // x.dtype.element_ty.primitive_bitwidth
    each = tl.arange(0, tile)
    group = each // block
    place = (group * programs + (program + 7 * group) % programs) * block + each % block
    inside = place < n
    element = tl.load(x + row * row_stride + place.to(tl.int64) * stride, inside, other=0)
    top = largest_key(element)
    keys = tl.where(inside, ordered_keys(element, largest), 0)
    # With the share of k rounded up, k elements of the row are at least the least bound, and fewer than k exceed the greatest.
    share = tl.sum(inside.to(tl.int32))
    rank = ((share.to(tl.int64) * k + n - 1) // n).to(tl.int32)
    low, high = range_of_nth_largest(keys, rank, top - top, top, slack)
    empty = share == 0
    first = bounds + row * 2 * programs + program
    tl.store(first, tl.where(empty, top, low).to(bounds.dtype.element_ty, bitcast=True))
    tl.store(first + programs, tl.where(empty, top - top, high).to(bounds.dtype.element_ty, bitcast=True))
    tl.store(listed + row, 0, program == 0)


@triton.jit
def top_k_count(
    x, bounds, counts, listed, list_keys, list_places, n, row_stride, stride, largest: tl.constexpr,
    programs: tl.constexpr, padded: tl.constexpr, lines: tl.constexpr, columns: tl.constexpr, capacity: tl.constexpr,
):  # fmt: skip
    """Write `counts[row, 4, chunks]`: beyond the range, at its far end, between its ends, at its near end.

    Appends the keys between the ends, and their places, to lists of `capacity` a row, in any order. `listed[row]` is how many
    there are, also if the lists are too short.
    """
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunks = tl.num_programs(1)
    place = chunk * (lines * columns) + tl.arange(0, lines)[:, None] * columns + tl.arange(0, columns)[None, :]
    inside = place < n
    element = tl.load(x + row * row_stride + place.to(tl.int64) * stride, inside, other=0)
    keys = tl.where(inside, ordered_keys(element, largest), 0)
    program = tl.arange(0, padded)
    bound = bounds + row * 2 * programs + program
    low = tl.min(tl.load(bound, program < programs, other=-1).to(keys.dtype, bitcast=True), 0)
    high = tl.max(tl.load(bound + programs, program < programs, other=0).to(keys.dtype, bitcast=True), 0)
    beyond, at_high = keys > high, inside & (keys == high)
    between = (keys > low) & (keys < high)
    at_low = inside & (keys == low) & (low < high)
    before, counted = counts_before(between, at_high)
    first = counts + row * 4 * chunks + chunk
    number = counted & 0xFFFF
    tl.store(first, tl.sum(beyond.to(tl.int32)))
    tl.store(first + chunks, (counted >> 16) & 0xFFFF)
    tl.store(first + 2 * chunks, number)
    tl.store(first + 3 * chunks, tl.sum(at_low.to(tl.int32)))
    slot = tl.atomic_add(listed + row, number) + (before & 0xFFFF)
    fits = between & (slot >= 0) & (slot < capacity)  # not also if it is launched alone, again and again, to be timed
    tl.store(list_keys + row * capacity + slot, keys.to(list_keys.dtype.element_ty, bitcast=True), fits)
    tl.store(list_places + row * capacity + slot, place, fits)


@triton.jit
def top_k_write(
    x, values, indices, bounds, counts, listed, list_keys, list_places, n, k, row_stride, stride, largest: tl.constexpr,
    programs: tl.constexpr, padded: tl.constexpr, padded_chunks: tl.constexpr,
    lines: tl.constexpr, columns: tl.constexpr, capacity: tl.constexpr, usual: tl.constexpr,
):  # fmt: skip
    """Write what each chunk of a row has of its result, in aten's order, into contiguous rows of `values` and `indices`.

    The first `usual` elements of a list are loaded at once, before it is known how many there are. A longer list is loaded
    after that, and instead of one that is longer than `capacity` the row is read again.
    """
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunks = tl.num_programs(1)
    tile: tl.constexpr = lines * columns
    within = tl.arange(0, lines)[:, None] * columns + tl.arange(0, columns)[None, :]
    chunk_start = chunk * tile
    place = chunk_start + within
    inside = place < n
    x += row * row_stride
    element = tl.load(x + place.to(tl.int64) * stride, inside, other=0)
    keys = tl.where(inside, ordered_keys(element, largest), 0)
    program = tl.arange(0, padded)
    bound = bounds + row * 2 * programs + program
    low = tl.min(tl.load(bound, program < programs, other=-1).to(keys.dtype, bitcast=True), 0)
    high = tl.max(tl.load(bound + programs, program < programs, other=0).to(keys.dtype, bitcast=True), 0)
    each, number = tl.arange(0, usual), tl.load(listed + row)
    keys_listed = tl.load(list_keys + row * capacity + each, each < number, other=0).to(keys.dtype, bitcast=True)
    places_listed = tl.load(list_places + row * capacity + each, each < number, other=0)
    other = tl.arange(0, padded_chunks)
    first = counts + row * 4 * chunks + other
    beyond_high = tl.load(first, other < chunks, other=0)
    at_high = tl.load(first + chunks, other < chunks, other=0)
    between = tl.load(first + 2 * chunks, other < chunks, other=0)
    at_low = tl.load(first + 3 * chunks, other < chunks, other=0)
    earlier = other < chunk
    sooner = tl.sum(beyond_high + at_high, 0)
    if sooner >= k:
        kth = high
        beyond_all = tl.sum(beyond_high, 0)
        beyond_before = tl.sum(tl.where(earlier, beyond_high, 0), 0)
        equal_before = tl.sum(tl.where(earlier, at_high, 0), 0)
    elif sooner + number < k:
        kth = low
        beyond_all = sooner + number
        beyond_before = tl.sum(tl.where(earlier, beyond_high + at_high + between, 0), 0)
        equal_before = tl.sum(tl.where(earlier, at_low, 0), 0)
    elif number <= capacity:
        beyond_before = tl.sum(tl.where(earlier, beyond_high + at_high, 0), 0)
        if number <= usual:
            kth = nth_largest(keys_listed, k - sooner, low + 1, high - 1)
            beyond_all = sooner + tl.sum((keys_listed > kth).to(tl.int32))
            beyond_before += tl.sum(((keys_listed > kth) & (places_listed < chunk_start)).to(tl.int32))
            equal_before = tl.sum(((keys_listed == kth) & (places_listed < chunk_start)).to(tl.int32))
        else:
            all_listed = tl.arange(0, capacity)
            all_keys = tl.load(list_keys + row * capacity + all_listed, all_listed < number, other=0)
            all_keys = all_keys.to(keys.dtype, bitcast=True)
            kth = nth_largest(all_keys, k - sooner, low + 1, high - 1)
            all_places = tl.load(list_places + row * capacity + all_listed, all_listed < number, other=0)
            beyond_all = sooner + tl.sum((all_keys > kth).to(tl.int32))
            beyond_before += tl.sum(((all_keys > kth) & (all_places < chunk_start)).to(tl.int32))
            equal_before = tl.sum(((all_keys == kth) & (all_places < chunk_start)).to(tl.int32))
    else:
        # Once for each halving of the range, and once for the counts.
        kth, end = low + 1, high - 1
        while kth < end:
            middle = end - ((end - kth) >> 1)
            reached_each = tl.zeros((lines, columns), tl.int32)
            for start in range(0, n, UNROLLED * tile):
                for part in tl.static_range(UNROLLED):
                    others = start + part * tile + within
                    read = tl.load(x + others.to(tl.int64) * stride, others < n, other=0)
                    reached_each += ((others < n) & (ordered_keys(read, largest) >= middle)).to(tl.int32)
            reached = tl.sum(reached_each)
            kth = tl.where(reached >= k, middle, kth)
            end = tl.where(reached >= k, end, middle - 1)
        beyond_all, beyond_before, equal_before = 0, 0, 0
        for start in range(0, n, tile):
            others = start + within
            read = tl.load(x + others.to(tl.int64) * stride, others < n, other=0)
            read_keys = ordered_keys(read, largest)
            read_beyond = (others < n) & (read_keys > kth)
            beyond_all += tl.sum(read_beyond.to(tl.int32))
            beyond_before += tl.sum((read_beyond & (others < chunk_start)).to(tl.int32))
            equal_before += tl.sum(((read_keys == kth) & (others < chunk_start)).to(tl.int32))
    beyond, equal = keys > kth, inside & (keys == kth)
    before, _ = counts_before(beyond, equal)
    slot = tl.where(beyond, beyond_before + (before & 0xFFFF), beyond_all + equal_before + ((before >> 16) & 0xFFFF))
    chosen = beyond | (equal & (slot < k))
    tl.store(values + row * k + slot, element, chosen)
    tl.store(indices + row * k + slot, place.to(tl.int64), chosen)
