"""Times of top-k made up for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graphstreams.costs.top_k_times import ATEN, TopKTimes
from graphstreams.kernels.top_k import Form, OneProgram, SeveralPrograms, fields_of, form_name

ONE, SHARED = OneProgram(16), SeveralPrograms()


def times(us: Mapping[Form, float], aten: float, rows: int, length: int, k: int) -> TopKTimes:
    """Return times that were measured on one shape of float32."""
    return TopKTimes.loads(json.dumps(table(us, aten, rows, length, k)))


def together(*tables: Mapping[str, Any], of_sorted: Sequence[Mapping[str, Any]] = ()) -> TopKTimes:
    """Return the times of tables of one device, and of those in which results were sorted."""
    forms = {name: fields for each in (*tables, *of_sorted) for name, fields in each["forms"].items()}
    found = [entry for each in tables for entry in each["times"]]
    found += [{**entry, "sorted": True} for each in of_sorted for entry in each["times"]]
    return TopKTimes.loads(json.dumps({**(*tables, *of_sorted)[0], "forms": forms, "times": found}))


def table(us: Mapping[Form, float], aten: float, rows: int = 1, length: int = 4096, k: int = 2048) -> dict[str, Any]:
    """Return what a file of times holds that were measured on one shape of float32."""
    named = {ATEN: aten, **{form_name(form): each for form, each in us.items()}}
    return {
        "measured": {"device": "NVIDIA H200", "date": "2026-11-30"},
        "forms": {form_name(form): fields_of(form) for form in us},
        "times": [{"dtype": "float32", "rows": rows, "length": length, "k": k, "us": named, "direct_us": named}],
    }


def _made_up() -> TopKTimes:
    tables = []
    for rows in (1, 8):
        for length, us, aten in ((2049, 7.0, 16.0), (4096, 8.0, 17.0), (16_384, 12.0, 70.0)):
            shared = {SHARED: 14.0} if length > 4096 else {}
            tables.append(table({ONE: 17.0 if (rows, length) == (8, 2049) else us, **shared}, aten, rows, length))
    tables += [table({SHARED: 14.0 + rows}, 50.0, rows, length) for rows in (1, 8) for length in (65_536, 131_072)]
    return together(*tables)


MADE_UP = _made_up()
