"""Times of top-k that were measured on one GPU, as the package has them in a file.

`examples/bench_top_k.py --rule` writes the file. An entry without `"sorted"` has times of results that are not sorted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from graphstreams.ir.devices import DEVICES, Device
from graphstreams.kernels.top_k import Form, form_of

ATEN = "aten"  # the name of aten's own kernels in the file
_PACKAGED = Path(__file__).parent / "data" / "top_k"


@dataclass(frozen=True)
class Measured:
    """The us of aten and of forms, by name, on rows of one shape."""

    itemsize: int  # bytes of an element
    rows: int
    length: int
    k: int
    us: Mapping[str, float]
    direct_us: Mapping[str, float] = field(default_factory=dict)  # of those that were called directly too
    sorted: bool = False  # whether results were sorted, by aten's top-k itself and behind the launches of forms


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
            rows = [_measured(each) for each in data["times"]]
            found = TopKTimes(data["measured"]["device"], data["measured"]["date"], forms, tuple(rows))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no times of top-k: {type(error).__name__}: {error}") from None
        for each in rows:
            unknown = sorted(each.us.keys() - forms.keys() - {ATEN})
            if unknown or ATEN not in each.us or (each.direct_us and ATEN not in each.direct_us):
                raise ValueError(f"no times of top-k: {each.rows} x {each.length} has {unknown or 'no time of aten'}")
        return found


def _measured(entry: Mapping[str, Any]) -> Measured:
    size, shape = getattr(torch, entry["dtype"]).itemsize, (entry["rows"], entry["length"], entry["k"])
    return Measured(size, *shape, entry["us"], entry.get("direct_us", {}), entry.get("sorted", False))


def times_of(device: Device) -> TopKTimes | None:
    """Return the package's times of a device; None if it has none."""
    own = [key for key, known in DEVICES.items() if known.name == device.name]
    return _shipped(own[0]) if own and (_PACKAGED / f"{own[0]}.json").is_file() else None


@cache
def _shipped(key: str) -> TopKTimes:
    return TopKTimes.loads((_PACKAGED / f"{key}.json").read_text(encoding="utf-8"))
