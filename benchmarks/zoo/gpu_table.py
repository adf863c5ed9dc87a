"""Tell what was measured of the cases on a GPU: a table, a summary, and which of them are faults."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.workers import one_line

Record = Mapping[str, Any]
NEVER_SLOWER, GAIN = 0.99, 1.05
HEADERS = ("case", "verdict", "launches", "serial us", "predicted us", "CUDA graph", "directly", "bits", "reason, or notes")
LEGEND = (
    "Serial: one replay of plain Inductor's CUDA graph. Predicted: that of the roofline for the same kernels, and how far it "
    "is off. CUDA graph, directly: how many times faster than plain Inductor, which is compiled before ours and behind it, in "
    "pairs, with quartiles; then the first of these two over the second, the control. Bits: runs on fresh inputs with other "
    "results, in a CUDA graph and directly, and the largest difference relative to the largest value."
)


def predicted(record: Record) -> float | None:
    """Return the predicted us of the kernels on one stream relative to the measured ones; None if nothing was priced."""
    if "graph" not in record:
        return None
    kernels = record["graph"]["kernels"]
    return sum(kernel["priced"] for kernel in kernels) / sum(kernel["us"] for kernel in kernels)


def fault(record: Record) -> str:
    """Return what is wrong with a case; empty if nothing is."""
    if "failed" in record:
        return str(record["failed"])
    if (record["bits"]["graph"] or record["bits"]["direct"]) and not record["differences"]:
        return "other bits with the same launches"
    slow = [way for way, times in record["times"].items() if times["ratio"]["third_quartile"] < NEVER_SLOWER]
    return f"slower: {', '.join(slow)}" if slow else ""


def row(record: Record) -> list[str]:
    """Return the cells of a case."""
    if "failed" in record:
        return [record["case"], "failed", *[""] * 6, one_line(record["failed"], 160)]
    times, bits, share = record["times"], record["bits"], predicted(record)
    serial_us = times["graph"]["serial"]["median"]
    wrong = bits["graph"] + bits["direct"]
    counts = record["kernels_serial"], record["kernels_streamed"]
    return [
        record["case"],
        record["verdict"],
        "{} > {}".format(*counts) if record["verdict"] == "clean" else str(counts[0]),
        f"{serial_us:.1f}",
        "" if share is None else f"{record['graph']['serial'] * share:.1f} ({share - 1:+.0%})",
        _ratio(times["graph"]),
        _ratio(times["direct"]),
        f"{bits['graph']}, {bits['direct']} of {bits['runs']}" + (f" ({bits['difference']:.1e})" if wrong else ""),
        one_line("; ".join(filter(None, [record["reason"], record.get("unmeasurable", ""), *record["differences"][:1]])), 160),
    ]


def _ratio(found: Mapping[str, Mapping[str, float]]) -> str:
    ratio = "{median:.3f}x ({first_quartile:.3f}-{third_quartile:.3f})".format(**found["ratio"])
    return f"{ratio}, {found['control']['median']:.3f}"


def summary(records: Sequence[Record]) -> str:
    """Return how many cases gain, how many are slower, and how far prices are off."""
    done = [record for record in records if "failed" not in record]
    ratios = {way: [each["times"][way]["ratio"]["median"] for each in done] for way in ("graph", "direct")}
    lines = [
        f"{len(records)} cases, {len(done)} measured: {sum(r >= GAIN for r in ratios['graph'])} of {GAIN}x or more in a CUDA "
        f"graph, {sum(r < NEVER_SLOWER for r in ratios['graph'])} under {NEVER_SLOWER}x; "
        f"directly {sum(r < NEVER_SLOWER for r in ratios['direct'])} under {NEVER_SLOWER}x."
    ]
    off = [abs(share - 1) for share in map(predicted, done) if share is not None]
    if off:
        lines.append(
            f"Predicted serial time of {len(off)}: median error {statistics.median(off):.1%}, largest {max(off):.1%}, "
            f"{sum(each > 0.5 for each in off)} over 50 %."
        )
    lines += [f"- {record['case']}: {what}" for record in records if (what := fault(record))]
    return "\n".join(lines)


def line(record: Record) -> str:
    """Return one line on a case, for the progress."""
    return "; ".join(filter(None, map(str, row(record))))


def text(records: Sequence[Record]) -> str:
    """Return the summary, the table and its legend."""
    return f"{summary(records)}\n\n{tabulate([row(r) for r in records], headers=HEADERS, tablefmt='github')}\n\n{LEGEND}\n"
