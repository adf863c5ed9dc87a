"""The tables of `bench_few_rows.py`, from a result of plain data as it stands in few_rows.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphstreams.benchmark.results import versions
from graphstreams.benchmark.tables import markdown, shortened

CUBLAS, INDUCTOR = "cuBLAS", "Inductor max-autotune"
OTHERS = (CUBLAS, INDUCTOR)
HEADERS = (
    "kind", "rows", "K x columns", "cuBLAS us", "share", "Inductor us", "best form", "us", "share", "ratio", "error",
    "cuBLAS error", "bad forms",
)  # fmt: skip
LEGEND = (
    "Times are medians of one product, with the quartiles in brackets, from CUDA graphs of one product with each copy of the "
    "weight; the copies fill the L2 cache several times. `share` is that of the data sheet's bandwidth. `ratio` is how many "
    "times faster than cuBLAS the best form is. An error is the largest difference from float64 relative to the largest value. "
    "A form is bad if it failed, if its error is more than 4 times cuBLAS's (wrong), or if a repeated run gave other bits "
    "(unstable)."
)


def timed(summary: Mapping[str, float]) -> str:
    """Return a median with its quartiles."""
    return f"{summary['median']:.2f} ({summary['first_quartile']:.2f}..{summary['third_quartile']:.2f})"


def share(row: Mapping[str, Any], name: str, bandwidth: float) -> str:
    """Return the share of the bandwidth that a call of a row reached."""
    return f"{row['bytes'] / (row['us'][name]['median'] * 1e-6) / bandwidth:.2f}"


def cells(row: Mapping[str, Any], bandwidth: float) -> list[str]:
    """Return the cells of one product and one number of rows, under HEADERS."""
    first = [row["kind"], str(row["rows"]), f"{row['depth']} x {row['columns']}"]
    if "failed" in row:
        return [*first, f"failed: {shortened(row['failed'])}", *["-"] * (len(HEADERS) - 4)]
    us, best, errors = row["us"], row["best"], row["errors"]
    compiled = timed(us[INDUCTOR]) if INDUCTOR in us else "-"
    ours = (
        [best, timed(us[best]), share(row, best, bandwidth), f"{us[CUBLAS]['median'] / us[best]['median']:.2f}x"]
        if best
        else []
    )
    rest = [*(ours or ["none", "-", "-", "-"]), f"{errors[best]:.1e}" if best else "-", f"{errors[CUBLAS]:.1e}"]
    bad = str(len({*row["wrong"], *row["unstable"], *row["failed_forms"]}))
    return [*first, timed(us[CUBLAS]), share(row, CUBLAS, bandwidth), compiled, *rest, bad]


def forms_table(row: Mapping[str, Any], bandwidth: float) -> list[list[str]]:
    """Return one line a call of a row, the fastest first: form, time, share of the bandwidth, error, what is bad about it."""
    place = f"{row['kind']} {row['rows']} x {row['depth']} x {row['columns']}"
    lines = []
    for name, own in sorted(row.get("us", {}).items(), key=lambda item: item[1]["median"]):
        bad = [word for word in ("wrong", "unstable") if name in row[word]]
        lines.append(
            [place, name, timed(own), share(row, name, bandwidth), f"{row['errors'][name]:.1e}", ", ".join(bad) or "-"]
        )
    return [
        *lines,
        *([place, name, f"failed: {shortened(why)}", "-", "-", "-"] for name, why in row.get("failed_forms", {}).items()),
    ]


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    bandwidth = result["bandwidth"]
    how = f"Medians of {result['rounds']} rounds of {result['repeats']} replays, all columns in turns"
    lines = [line for row in result["rows"] for line in forms_table(row, bandwidth)]
    used = [[shape, ", ".join(names)] for shape, names in result["used_by"].items()]
    left_out = sum(row.get("left_out", 0) for row in result["rows"])
    parts = (
        "# Products of few rows",
        f"{versions(result)}. {how}; `{result['command']}`. {left_out} forms were left out because time was up.",
        markdown([cells(row, bandwidth) for row in result["rows"]], HEADERS),
        LEGEND,
        "## Products",
        markdown(used, ("K x columns", "in")),
        "## All forms",
        markdown(lines, ("product", "form", "us", "share", "error", "note")),
    )
    return "\n\n".join(parts) + "\n"
