"""The table of `direct.py`, and what of a row does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paired import PairedRatio, verdict
from tabulate import tabulate
from workers import one_line

SERIAL, NEW, OLD, OLD_SERIAL = "serial", "new", "old", "serial, old process"
SIDES = {NEW: (SERIAL, NEW), OLD: (OLD_SERIAL, OLD)}  # of each process
SERIAL_BAR, OLD_BAR = 0.99, 0.98
HEADERS = ("row", "serial direct us", "new", "control", "old", "host us", "new", "old", "serial graph us", "new", "old",
           "new/old", "serials", "verdict", "does not hold")  # fmt: skip
LEGEND = (
    "Serial in us, all else how many times faster: new and old than serial in their process. Direct: medians of paired ratios, "
    "with an interval of 95 %; the control is the ratio of two compiles of one side, so its distance from 1 is noise. "
    "Undecided: the interval contains the bar, and the control is as far from 1 as the ratio. Host: until a call returns. "
    "Serials: the same code in both processes, so its distance from 1 is no difference of versions."
)


def ratio(row: Mapping[str, Any], way: str, side: str, against: str) -> float | None:
    """Return how many times faster one side is than another by medians; None if either was not timed."""
    times = row.get("us", {}).get(way, {})
    return times[against]["median"] / times[side]["median"] if side in times and against in times else None


def paired(row: Mapping[str, Any], package: str, name: str = "ratio") -> PairedRatio | None:
    """Return the paired "ratio" or "control" of direct calls of a package; None if it was not timed."""
    found = row.get("paired", {}).get(package)
    return PairedRatio(**found[name]) if found else None


def failures(row: Mapping[str, Any]) -> list[str]:
    """Return what of a row does not hold, as text. A ratio that can't be told from its bar does not hold either."""
    if "failed" in row:
        return [row["failed"]]
    found = []
    own, control = paired(row, NEW), paired(row, NEW, "control")
    if own and control:
        decided = verdict(own, control, SERIAL_BAR)
        if decided == "undecided":
            found.append(f"direct: undecided: {own} of {SERIAL}, the bar is {SERIAL_BAR} and the control {control}")
        elif decided == "fails":
            found.append(f"direct: {own.median:.3f}x of {SERIAL}, less than {SERIAL_BAR}")
    for against, bar in ((SERIAL, SERIAL_BAR), (OLD, OLD_BAR)):
        value = ratio(row, "graph", NEW, against)
        if value is not None and value < bar:
            found.append(f"graph: {value:.3f}x of {against}, less than {bar}")
    wrong = row["sides"].get(NEW, {}).get("wrong", {})
    return found + [f"{way}: other bits in {count} runs" for way, count in wrong.items() if count]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a markdown table, one line a row."""
    return f"{tabulate(map(_line, rows), HEADERS, tablefmt='github', disable_numparse=True)}\n\n{LEGEND}\n"


def _line(row: Mapping[str, Any]) -> list[str]:
    line = [row["name"], _serial(row, "direct")]
    line += [str(paired(row, *which) or "-") for which in ((NEW, "ratio"), (NEW, "control"), (OLD, "ratio"))]
    for way in ("host", "graph"):
        line += [_serial(row, way), _times(ratio(row, way, NEW, SERIAL)), _times(ratio(row, way, OLD, OLD_SERIAL))]
    line += [_times(ratio(row, "graph", NEW, OLD)), _times(ratio(row, "graph", SERIAL, OLD_SERIAL))]
    told = row.get("sides", {}).get(NEW, {})
    reason = f" ({one_line(told['reason'], 60)})" if told.get("reason") else ""
    return [*line, f"{told.get('verdict', '-')}{reason}", "; ".join(failures(row))]


def _serial(row: Mapping[str, Any], way: str) -> str:
    serial = row.get("us", {}).get(way, {}).get(SERIAL)
    return f"{serial['median']:.1f}" if serial else "-"


def _times(value: float | None) -> str:
    return f"{value:.3f}x" if value is not None else "-"
