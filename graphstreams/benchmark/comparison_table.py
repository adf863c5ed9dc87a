"""Measured times of serial and streamed graphs as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from graphstreams.benchmark.comparison import Comparison, Times


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """One row a workload: verdict, runs whose bits were wrong, and times in us (median, quartiles)."""
    headers = [
        "workload",
        "verdict",
        "wrong / runs",
        "graph serial",
        "graph streamed",
        "speed-up",
        "direct serial",
        "direct streamed",
    ]
    rows = []
    for each in comparisons:
        wrong = ", ".join(f"{way} {each.wrong[way]}/{each.runs[way]}" for way in each.runs)
        graph = [_times(t) for t in each.graph] if each.graph else ["-", "-"]
        direct = [_times(t) for t in each.direct] if each.direct else ["-", "-"]
        verdict = each.verdict + (f": {each.reason}" if each.reason else "")
        rows.append([each.name, verdict, wrong, *graph, f"{each.speedup:.2f}x", *direct])
    return tabulate(rows, headers=headers, disable_numparse=True)


def _times(times: Times) -> str:
    return f"{times.median:.1f} ({times.first_quartile:.1f}-{times.third_quartile:.1f})"
