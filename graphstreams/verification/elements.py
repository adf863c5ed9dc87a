"""Prove that two strided tensors in one storage have no element in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Elements:
    """The elements of a storage that a tensor has, counted in items of its dtype from the storage's start."""

    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def known(self) -> bool:
        """Whether it is one that a proof can use: as many strides as sizes, and nothing negative."""
        numbers = (*self.sizes, *self.strides, self.offset)
        return len(self.sizes) == len(self.strides) and all(type(n) is int and n >= 0 for n in numbers)

    @property
    def last(self) -> int:
        """The place of the last element."""
        return self.offset + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))


def disjoint(one: Elements | None, other: Elements | None) -> bool:
    """Return whether it is proved that two tensors have no element in common. Of None, nothing is known.

    One lies behind the other, or both keep to columns of their own: modulo some stride the places of each are one interval, and
    the two intervals do not meet.
    """
    if one is None or other is None or not (one.known and other.known) or one.dtype != other.dtype:
        return False
    if 0 in (*one.sizes, *other.sizes):
        return True
    # Modulo a number that is larger than every place, the columns are the places themselves.
    beyond = 1 + max(one.last, other.last)
    widths = {beyond, *one.strides, *other.strides} - {0, 1}
    return any(_apart(_columns(one, width), _columns(other, width)) for width in widths)


def _columns(tensor: Elements, width: int) -> tuple[int, int] | None:
    """Return the first and the last place of a tensor's elements modulo `width`; None if they may not be an interval."""
    inner = [(size, stride) for size, stride in zip(tensor.sizes, tensor.strides, strict=True) if stride % width]
    first = tensor.offset % width
    last = first + sum((size - 1) * stride for size, stride in inner)
    return (first, last) if last < width else None


def _apart(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])
