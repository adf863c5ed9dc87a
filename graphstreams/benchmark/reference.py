"""Hold variants against serial Inductor at its best: its own settings or max-autotune, whichever is faster in the same run.

If max-autotune was asked for and has no time, nothing is said of the best: a ratio to the slower of the two would be too good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphstreams.benchmark.tables import Groups, Row, best, markdown, shortened
from graphstreams.benchmark.variants import AUTOTUNED, OURS, SERIAL

REFERENCE_LEGEND = (
    "How many times faster than the faster of serial Inductor and serial Inductor with max-autotune, which were timed in the "
    "same run and in turns. -: one of them has no time."
)
DIFFERENCES_LEGEND = (
    "The largest difference from the outputs and changed inputs of serial Inductor, whose products are cuBLAS's, as a share of "
    "a tensor's largest value, or of whole numbers the share that differs. All variants had the same fresh inputs."
)


def reference(row: Row) -> str | None:
    """Return the faster of serial Inductor and max-autotune; None if one of them has no time."""
    us = {name: _us(row, name) for name in (SERIAL, AUTOTUNED)}
    return min(us, key=lambda name: us[name] or 0.0) if all(us.values()) else None


def reference_table(rows: Sequence[Row], groups: Groups) -> str:
    """Return the us of serial and max-autotune, and how many times faster than the faster one each group of ours is."""
    ours = {title: each for title, each in groups.items() if each.startswith(OURS) and any(best(row, each) for row in rows)}
    lines = []
    for row in rows:
        name = reference(row)
        against = _us(row, name) if name else None
        gains = [against / us if against and (us := _us(row, best(row, group))) else None for group in ours.values()]
        cells = [f"{gain:.2f}x" if gain else "-" for gain in gains]
        lines.append([row["title"], _time(row, SERIAL), _time(row, AUTOTUNED), name or "-", *cells])
    return markdown(lines, ["workload", "serial us", "max-autotune us", "faster", *ours])


def differences_table(rows: Sequence[Row]) -> str:
    """Return the largest difference of each variant from serial, beside that of max-autotune."""
    lines = []
    for row in rows:
        rivals: Mapping[str, Any] = row.get("rivals", {})
        autotuned = _share(rivals.get(AUTOTUNED, {}))
        own = {name: record for name, record in rivals.items() if "difference" in record and name != AUTOTUNED}
        lines += [[row["title"], name, _share(record), autotuned] for name, record in own.items()]
    return markdown(lines, ["workload", "rival", "largest difference", "max-autotune's"])


def asked_for(rows: Sequence[Row]) -> bool:
    """Return whether max-autotune was to be timed in any of the rows."""
    return any(AUTOTUNED in row.get("rivals", {}) for row in rows)


def _share(record: Mapping[str, Any]) -> str:
    return f"{record['difference']:.1e}" if "difference" in record else "-"


def _us(row: Row, name: str | None) -> float | None:
    times = row.get("rivals", {}).get(name, {}).get("graph")
    return float(times["median"]) if times else None


def _time(row: Row, name: str) -> str:
    us = _us(row, name)
    failed = row.get("failed") or row.get("rivals", {}).get(name, {}).get("failed") or "not timed"
    return f"{us:.1f}" if us else shortened(failed, 60)
