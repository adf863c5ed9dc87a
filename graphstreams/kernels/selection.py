"""Functions for Triton kernels that select elements: keys that compare as elements do, the n-th largest of them, and places.

They are copied into each kernel's source, so they use nothing but Triton's language and each other.
"""

import triton
import triton.language as tl


@triton.jit
def bits_of(x):
    """Return the bits of a block as unsigned numbers of 32 bits, or of 64 if it has 64."""
    width: tl.constexpr = x.dtype.primitive_bitwidth
    if width == 64:
        return x.to(tl.uint64, bitcast=True)
    elif width == 32:
        return x.to(tl.uint32, bitcast=True)
    elif width == 16:
        return x.to(tl.uint16, bitcast=True).to(tl.uint32)
    else:
        return x.to(tl.uint8, bitcast=True).to(tl.uint32)


@triton.jit
def largest_key(x):
    """Return the largest key that `ordered_keys` gives an element of a block's type."""
    width: tl.constexpr = x.dtype.primitive_bitwidth
    if width == 64:
        return tl.full((), 0xFFFFFFFFFFFFFFFF, tl.uint64)
    elif width == 32:
        return tl.full((), 0xFFFFFFFF, tl.uint32)
    elif width == 16:
        return tl.full((), 0xFFFF, tl.uint32)
    else:
        return tl.full((), 0xFF, tl.uint32)


@triton.jit
def infinity_bits(x):
    """Return the bits of the infinity of a block of floating-point numbers."""
    width: tl.constexpr = x.dtype.primitive_bitwidth
    if width == 64:
        return tl.full((), 0x7FF0000000000000, tl.uint64)
    elif width == 32:
        return tl.full((), 0x7F800000, tl.uint32)
    elif x.dtype.is_bf16():
        return tl.full((), 0x7F80, tl.uint32)
    else:
        return tl.full((), 0x7C00, tl.uint32)


@triton.jit
def ordered_keys(x, largest: tl.constexpr):
    """Return unsigned keys in the order in which aten takes the elements of `x`: the larger, the sooner.

    Every NaN is larger than all numbers, and -0.0 lies just below 0.0. With `largest` false the order is reversed.
    """
    bits = bits_of(x)
    top = largest_key(x)
    sign = top - (top >> 1)
    if x.dtype.is_floating():
        keys = tl.where((bits & sign) != 0, bits ^ top, bits | sign)
        # By its bits, since Triton's interpreter has no NaN of bfloat16.
        keys = tl.where((bits & (top >> 1)) > infinity_bits(x), top, keys)
    elif x.dtype.is_int_signed():
        keys = bits ^ sign
    else:
        keys = bits
    if not largest:
        keys = keys ^ top
    return keys


@triton.jit
def nth_largest(keys, n, low, high):
    """Return the n-th largest of `keys`, which lies in `low`..`high`, by halving this range.

    Keys that are 0 may stand for no element if `n` others are there. It ends early where just `n` keys lie above the middle.
    """
    reached = 0
    while (low < high) & (reached != n):
        middle = high - ((high - low) >> 1)
        reached = tl.sum((keys >= middle).to(tl.int32))
        enough = reached >= n
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return tl.min(tl.where(keys >= low, keys, largest_key(keys)))


@triton.jit
def range_of_nth_largest(keys, n, low, high, slack):
    """Return the ends of a part of `low`..`high` that holds the n-th largest of `keys`.

    Unless it is a single key, at most `slack` keys lie in it, if there are any numbers between its ends. All keys that count
    are larger than 0.
    """
    above, reached = 0, n + slack + 1
    while (low < high) & (reached - above > slack):
        middle = high - ((high - low) >> 1)
        count = tl.sum((keys >= middle).to(tl.int32))
        enough = count >= n
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
        reached = tl.where(enough, count, reached)
        above = tl.where(enough, above, count)
    return low, high


@triton.jit
def counts_before(first, second):
    """Return how many are true before each place of two blocks `[lines, columns]` in their order, and how many in all.

    Both have up to 32,768 places, and no place is true in both. The counts are packed: the first in the low 16 bits, the second
    in the high ones. Each line is summed within a warp, if it is short enough.
    """
    ones = first.to(tl.int32) + (second.to(tl.int32) << 16)
    before = tl.cumsum(ones, 1) - ones
    of_lines = tl.sum(ones, 1)
    line = tl.arange(0, first.shape[0])
    lines_before = tl.sum(tl.where(line[None, :] < line[:, None], of_lines[None, :], 0), 1)
    return before + lines_before[:, None], tl.sum(of_lines, 0)
