"""Choose the form of a top-k by times that were measured on one GPU, over rows, lengths and sizes of elements.

A form is taken if the longest of its times that were measured around a shape is shorter than the shortest of aten's. Nothing is
drawn between two measurements, because times go in steps: aten takes other kernels from some length on, and a form's tiles are
powers of two. `examples/bench_top_k.py --rule` writes the file.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from graphstreams.ir.devices import DEVICES, Device
from graphstreams.kernels.top_k import Choice, Form, TopK, form_of, supports

ATEN = "aten"  # the name of aten's own kernels in the file
MARGIN = 0.95  # of aten's time, that a form has to stay below: medians of equal launches differ by up to 2 %
LEAST_SHARE_OF_K = 0.25  # of the k of a measurement, that a k which it stands for has at least; at most it is the same
_PACKAGED = Path(__file__).parent / "data" / "top_k"


@dataclass(frozen=True)
class Measured:
    """The us of aten and of forms, by name, on rows of one shape."""

    itemsize: int  # bytes of an element
    rows: int
    length: int
    k: int
    us: Mapping[str, float]


@dataclass(frozen=True)
class TopKTimes:
    """What top-k takes on one GPU. `forms` has the form of each name but aten's in the measurements."""

    device: str  # the driver's name of the GPU
    date: str  # of the measurements, YYYY-MM-DD
    forms: Mapping[str, Form]
    measured: tuple[Measured, ...]

    @staticmethod
    def loads(text: str) -> TopKTimes:
        """Return the times in a file's text. Raises ValueError, which says why, if it holds none."""
        try:
            data = json.loads(text)
            forms = {name: form_of(fields) for name, fields in data["forms"].items()}
            rows = [
                Measured(getattr(torch, each["dtype"]).itemsize, each["rows"], each["length"], each["k"], each["us"])
                for each in data["times"]
            ]
            found = TopKTimes(data["measured"]["device"], data["measured"]["date"], forms, tuple(rows))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no times of top-k: {type(error).__name__}: {error}") from None
        for each in rows:
            unknown = sorted(each.us.keys() - forms.keys() - {ATEN})
            if unknown or ATEN not in each.us:
                raise ValueError(f"no times of top-k: {each.rows} x {each.length} has {unknown or 'no time of aten'}")
        return found


def times_of(device: Device) -> TopKTimes | None:
    """Return the package's times of a device; None if it has none."""
    own = [key for key, known in DEVICES.items() if known.name == device.name]
    return _shipped(own[0]) if own and (_PACKAGED / f"{own[0]}.json").is_file() else None


@cache
def _shipped(key: str) -> TopKTimes:
    return TopKTimes.loads((_PACKAGED / f"{key}.json").read_text(encoding="utf-8"))


def choose_form(top_k: TopK, times: TopKTimes | None, device: str) -> Choice:
    """Return the fastest form for a top-k on the GPU that the driver calls `device`, or None for aten's, with the reason."""
    if times is None:
        return Choice(None, f"no times of the kernels are known for {device}")
    shape = f"{top_k.rows} x {top_k.length}, k {top_k.k}, {str(top_k.dtype).removeprefix('torch.')}"
    around = _around(top_k, times.measured)
    if not around:
        return Choice(None, f"{shape} lies outside of what was measured on {times.device}")
    aten = min(each.us[ATEN] for each in around)
    slowest = {
        name: max(each.us[name] for each in around)
        for name, form in times.forms.items()
        if supports(top_k, form) and all(name in each.us for each in around)
    }
    if not slowest:
        return Choice(None, f"no form of the kernels was measured around {shape}")
    best = min(slowest, key=lambda name: (slowest[name], name))
    told = f"{shape}: {best}, up to {slowest[best]:.1f} us; aten {aten:.1f} us or more ({times.device}, {times.date})"
    return Choice(times.forms[best], told, slowest[best]) if slowest[best] < MARGIN * aten else Choice(None, told)


def _around(top_k: TopK, measured: Sequence[Measured]) -> list[Measured]:
    """Return the measurements of the shapes next to one, on both sides; empty if it lies outside of all."""
    alike = [each for each in measured if each.itemsize == top_k.dtype.itemsize]
    of_k = [each for each in alike if LEAST_SHARE_OF_K * each.k <= top_k.k <= each.k]
    rows, lengths = _next_to(top_k.rows, {each.rows for each in of_k}), _next_to(top_k.length, {each.length for each in of_k})
    found = [each for each in of_k if each.rows in rows and each.length in lengths]
    complete = {(each.rows, each.length) for each in found} == {(row, length) for row in rows for length in lengths}
    return found if complete else []


def _next_to(value: int, known: set[int]) -> set[int]:
    """Return the nearest of the known numbers on both sides of a value; empty if there is none on one side."""
    ordered = sorted(known)
    below, above = bisect_right(ordered, value) - 1, bisect_left(ordered, value)
    return {ordered[below], ordered[above]} if below >= 0 and above < len(ordered) else set()
