"""The tables of `bench_prefetch.py`, from a result of plain data as it stands in prefetch.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphstreams.benchmark.results import versions
from graphstreams.benchmark.tables import markdown, shortened

ALONE, COLD, TWICE = "the first kernel alone", "without a prefetch", "without a prefetch, the product twice"
WITH = ", then the product"  # behind a form's name: with the product, not the prefetch beside the first kernel alone
HEADERS = (
    "K x columns", "behind", "by", "whole us", "product us", "from the cache us", "best prefetch", "whole us with it",
    "gain us", "product us with it", "first kernel longer by us",
)  # fmt: skip
LEGEND = (
    "Times are medians for one copy of the weight, with the quartiles in brackets, from CUDA graphs that go through copies of "
    "which even the prefetched parts fill the L2 cache several times. `whole` is the first kernel and the product, beside the "
    "prefetch if there is one. `product` is how much longer that takes than the same without the product, `from the cache` how "
    "much longer it takes with the product twice: what the second one takes, whose weight the first has just read. The best "
    "prefetch is that of the shortest whole."
)


def median(row: Mapping[str, Any], name: str) -> float:
    """Return the median of a time of a row, in us."""
    return float(row["us"][name]["median"])


def timed(summary: Mapping[str, float]) -> str:
    """Return a median with its quartiles."""
    return f"{summary['median']:.2f} ({summary['first_quartile']:.2f}..{summary['third_quartile']:.2f})"


def gains(row: Mapping[str, Any], name: str) -> list[str]:
    """Return the whole with a form, what it gains, the product's part, and by how much the first kernel takes longer."""
    gain = median(row, COLD) - median(row, name + WITH)
    product, longer = median(row, name + WITH) - median(row, name), median(row, name) - median(row, ALONE)
    return [timed(row["us"][name + WITH]), f"{gain:.2f}", f"{product:.2f}", f"{longer:.2f}"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one product behind one kernel, under HEADERS."""
    first = [f"{row['depth']} x {row['columns']}", row["first"], row["second"]]
    if "failed" in row:
        return [*first, f"failed: {shortened(row['failed'])}", *["-"] * (len(HEADERS) - 4)]
    product, cached = median(row, COLD) - median(row, ALONE), median(row, TWICE) - median(row, COLD)
    best = row["best"]
    own = [best, *gains(row, best)] if best else ["none", *["-"] * 4]
    return [*first, timed(row["us"][COLD]), f"{product:.2f}", f"{cached:.2f}", *own]


def forms_table(row: Mapping[str, Any]) -> list[list[str]]:
    """Return one line a form of a row, the shortest whole first."""
    place = f"{row['depth']} x {row['columns']}, {row['first']}, {row['second']}"
    names = sorted(row.get("forms", {}), key=lambda name: median(row, name + WITH))
    return [[place, name, *gains(row, name)] for name in names]


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    how = f"Medians of {result['rounds']} rounds of {result['repeats']} replays, all in turns"
    left_out = sum(row.get("left_out", 0) for row in result["rows"])
    lines = [line for row in result["rows"] for line in forms_table(row)]
    parts = (
        f"# Prefetch of a weight into the L2 cache, {result['kind']}, products of {result['of_rows']} rows",
        f"{versions(result)}. {how}; `{result['command']}`. {left_out} forms were left out because time was up.",
        markdown([cells(row) for row in result["rows"]], HEADERS),
        LEGEND,
        "## All forms",
        markdown(lines, ("product", "prefetch", "whole us", "gain us", "product us", "first kernel longer by us")),
    )
    return "\n\n".join(parts) + "\n"
