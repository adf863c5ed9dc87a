"""The table of `bench_top_k.py`, from a result of plain data as it stands in top_k.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphstreams.benchmark.results import versions
from graphstreams.benchmark.tables import markdown, shortened

ATEN, FLASHINFER = "aten", "FlashInfer"
HEADERS = (
    "dtype", "rows", "length", "aten us", "best form", "us", "ratio", "alike us", "direct ratio", "FlashInfer us",
    "wrong / runs",
)  # fmt: skip
LEGEND = (
    "Times are medians of one replay of a CUDA graph, with the quartiles in brackets. `ratio` is how many times faster than "
    "aten the best form is as a CUDA graph, `direct ratio` compiled by Inductor and called directly; `alike` is its time on "
    "rows whose neighbours are alike. Runs are wrong if values or indices have other bits than aten's, or another order. "
    "FlashInfer gives the same elements in another order."
)

OF_SORTED = (
    "Results are sorted, so a form's time has that of the sort behind its launches, and runs are wrong if values differ, or "
    "indices of another run of equal values. FlashInfer does not sort."
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one shape, under HEADERS."""
    first = [row["dtype"], str(row["rows"]), str(row["length"])]
    if "failed" in row:
        return [*first, f"failed: {shortened(row['failed'])}", *["-"] * (len(HEADERS) - 4)]
    graph, direct, best = row["graph"], row.get("direct", {}), row["best"]
    ratios = [f"{way[ATEN]['median'] / way[best]['median']:.2f}x" if best in way else "-" for way in (graph, direct)]
    ratios.insert(1, timed(row["alike"][best]) if best else "-")
    other = timed(graph[FLASHINFER]) if FLASHINFER in graph else "-"
    wrong = f"{sum(row['wrong'].values())} / {sum(row['runs'].values())}"
    return [*first, timed(graph[ATEN]), best or "none", timed(graph[best]) if best else "-", *ratios, other, wrong]


def timed(summary: Mapping[str, float]) -> str:
    """Return a median with its quartiles."""
    return f"{summary['median']:.1f} ({summary['first_quartile']:.1f}..{summary['third_quartile']:.1f})"


def forms_table(row: Mapping[str, Any]) -> list[list[str]]:
    """Return one line a form of a shape: form, time as a CUDA graph, there with neighbours alike, and called directly."""
    place = f"{row['dtype']} {row['rows']} x {row['length']}"
    ways = [row.get(way, {}) for way in ("graph", "alike", "direct")]
    return [[place, name, *(timed(way[name]) if name in way else "-" for way in ways)] for name in row.get("graph", {})]


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    how = f"Medians of {result['rounds']} rounds, all columns in turns, over {result['captures']} captures of each"
    lines = [line for row in result["rows"] for line in forms_table(row)]
    parts = (
        f"# Top-k of {result['k']} elements, {'sorted' if result.get('sorted') else 'not sorted'}",
        f"{versions(result)}. {how}; `{result['command']}`.",
        markdown([cells(row) for row in result["rows"]], HEADERS),
        f"{LEGEND} {OF_SORTED}" if result.get("sorted") else LEGEND,
        "## All forms",
        markdown(lines, ("shape", "form", "CUDA graph us", "alike us", "direct us")),
    )
    return "\n\n".join(parts) + "\n"
