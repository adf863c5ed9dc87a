"""Choose the form of a top-k by times that were measured on one GPU, over rows, lengths and sizes of elements.

A form is taken if the longest of its times that were measured around a shape is shorter than the shortest of aten's, as CUDA
graphs, and, unless Inductor captures the graph, if it was no slower in direct calls there. Nothing is drawn between two
measurements, because times go in steps: aten takes other kernels from some length on, and a form's tiles are powers of two.
For a range of lengths one form has to be faster on each that was measured in it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphstreams.costs.top_k_times import ATEN, Measured, TopKTimes
from graphstreams.kernels.top_k import Choice, Form, TopK, supports

MARGIN = 0.95  # of aten's time, that a form has to stay below: medians of equal launches differ by up to 2 %
# The same for a dynamic length, which is not known to be a multiple of 16: elements are loaded one by one then, not 16 bytes at
# once. On 2,049 elements that took up to 18 % more than on 4,096 (one program, bfloat16, an H200).
DYNAMIC_MARGIN = 0.8
DIRECT_MARGIN = 1.02  # of aten's time in direct calls, that a form has to stay below
LEAST_SHARE_OF_K = 0.25  # of the k of a measurement, that a k which it stands for has at least; at most it is the same


def choose_form(top_k: TopK, times: TopKTimes | None, device: str, captured: bool = False) -> Choice:
    """Return the fastest form for a top-k on the GPU that the driver calls `device`, or None for aten's, with the reason.

    `captured` says that it is called in CUDA graphs only. Otherwise the host may launch it, and what that takes counts too.
    """
    if times is None:
        return Choice(None, f"no times of the kernels are known for {device}")
    if top_k.sorted and not any(each.sorted for each in times.measured):
        return Choice(
            None, f"no times of sorted results are known for {device}; pass sorted=False if the order does not matter"
        )
    shape = _shape(top_k)
    groups = _around(top_k, times.measured)
    if not groups:
        return Choice(None, f"{shape} lies outside of what was measured on {times.device}")
    known = [
        name
        for name, form in times.forms.items()
        if supports(top_k, form) and all(_may_serve(name, group, times.forms, captured) for group in groups)
    ]
    if not known:
        why = "" if captured else ", or none is known to be as fast as aten's launched by the host"
        return Choice(None, f"no form of the kernels was measured around {shape}{why}")
    worst = {name: max(groups, key=lambda group, name=name: _ratio(name, group)) for name in known}  # type: ignore[misc]
    best = min(known, key=lambda name: (_ratio(name, worst[name]), name))
    slowest, aten = _extremes(best, worst[best])
    told = f"{shape}: {best}, up to {slowest:.1f} us; aten {aten:.1f} us or more ({times.device}, {times.date})"
    margin = DYNAMIC_MARGIN if top_k.dynamic else MARGIN
    if slowest >= margin * aten:
        return Choice(None, f"{told}, and {1 - margin:.0%} less are asked of a dynamic length" if top_k.dynamic else told)
    return Choice(times.forms[best], told, _launches_us(best, top_k, times))


def _launches_us(name: str, top_k: TopK, times: TopKTimes) -> float:
    """Return the longest time of a form's launches alone, without a sort behind them, around a shape; 0 if not measured."""
    groups = _around(replace(top_k, sorted=False), times.measured)
    if not groups or not all(name in each.us for group in groups for each in group.longest):
        return 0.0
    return _extremes(name, max(groups, key=lambda group: _ratio(name, group)))[0]


@dataclass(frozen=True)
class _Group:
    """The measurements on shapes that stand for one top-k."""

    longest: tuple[Measured, ...]  # around the longest row, for which launches are made
    shorter: tuple[Measured, ...]  # of the lengths below those, down to the one below the shortest row


def _shape(top_k: TopK) -> str:
    rows = top_k.rows if isinstance(top_k.rows, int) else "any number"
    length = f"{top_k.shortest} to {top_k.length}" if top_k.dynamic else str(top_k.length)
    return f"{rows} x {length}, k {top_k.k}, {str(top_k.dtype).removeprefix('torch.')}{', sorted' * top_k.sorted}"


def _extremes(name: str, group: _Group) -> tuple[float, float]:
    """Return the longest time of a form, and the shortest of aten, on shapes that stand for one.

    The form has a time of each of the longest rows. On shorter ones it is taken to last no longer than on these, or than what
    was measured there: its launches are those for the longest row, with fewer elements.
    """
    measured = (*group.longest, *group.shorter)
    return max(each.us[name] for each in measured if name in each.us), min(each.us[ATEN] for each in measured)


def _may_serve(name: str, group: _Group, forms: Mapping[str, Form], captured: bool) -> bool:
    """Return whether a form has times of the longest rows, and is no slower than aten on any if the host launches it."""
    if not all(name in each.us for each in group.longest):
        return False
    slowest, _ = _extremes(name, group)
    asked = [(each, each.us[name], each.direct_us.get(name)) for each in group.longest]
    asked += [(each, slowest, None) for each in group.shorter]
    return captured or all(
        _direct_us(name, us, direct_us, each, forms) <= DIRECT_MARGIN * each.direct_us.get(ATEN, 0.0)
        for each, us, direct_us in asked
    )


def _direct_us(name: str, us: float, direct_us: float | None, measured: Measured, forms: Mapping[str, Form]) -> float:
    """Return the most us that a form takes launched by the host; infinity if no form of as many launches was timed so.

    That is `direct_us`, if it was measured. The host takes as long for another form of as many launches, and the GPU takes
    longer by no more than it does replayed, where the form takes `us`.
    """
    if direct_us is not None:
        return direct_us
    others = measured.direct_us.keys() & measured.us.keys() - {ATEN}
    alike = [other for other in others if type(forms[other]) is type(forms[name])]
    return min((measured.direct_us[other] + max(0.0, us - measured.us[other]) for other in alike), default=math.inf)


def _ratio(name: str, group: _Group) -> float:
    slowest, aten = _extremes(name, group)
    return slowest / aten


def _around(top_k: TopK, measured: Sequence[Measured]) -> list[_Group]:
    """Return the measurements on shapes next to that of a top-k, on both sides; empty if it lies outside of all.

    They are one group. For a dynamic number of rows there is a group for each number that was measured, in each of which a
    form has to be faster: more rows are taken to behave like the most that were measured. For a dynamic length a group has
    every length that was measured from the one next to the shortest row on.
    """
    alike = [each for each in measured if each.itemsize == top_k.dtype.itemsize and each.sorted == top_k.sorted]
    of_k = [each for each in alike if LEAST_SHARE_OF_K * each.k <= top_k.k <= each.k]
    known, of_lengths = {each.rows for each in of_k}, {each.length for each in of_k}
    longest, shortest = _next_to(top_k.length, of_lengths), _next_to(top_k.shortest, of_lengths)
    if not longest or not shortest:
        return []
    lengths = {length for length in of_lengths if min(shortest) <= length <= max(longest)}
    groups = [_next_to(top_k.rows, known)] if isinstance(top_k.rows, int) else [{rows} for rows in sorted(known)]
    found = [[each for each in of_k if each.rows in rows and each.length in lengths] for rows in groups]
    complete = all(
        {(each.rows, each.length) for each in group} == {(row, length) for row in rows for length in lengths} and group
        for group, rows in zip(found, groups, strict=True)
    )
    return [_group(each, longest) for each in found] if complete else []


def _group(measured: Sequence[Measured], longest: set[int]) -> _Group:
    return _Group(
        tuple(each for each in measured if each.length in longest),
        tuple(each for each in measured if each.length not in longest),
    )


def _next_to(value: int, known: set[int]) -> set[int]:
    """Return the nearest of the known numbers on both sides of a value; empty if there is none on one side."""
    ordered = sorted(known)
    below, above = bisect_right(ordered, value) - 1, bisect_left(ordered, value)
    return {ordered[below], ordered[above]} if below >= 0 and above < len(ordered) else set()
