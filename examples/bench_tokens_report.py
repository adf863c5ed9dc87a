"""The table of `bench_tokens.py`, from a result of plain data as it stands in tokens.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphstreams.benchmark.results import versions
from graphstreams.benchmark.tables import markdown, shortened

SIDES = ("serial", "graphstreams")
HEADERS = ("tokens", "runs on", "serial us", "graphstreams us", "ratio", "direct ratio", "wrong runs / runs")
LEGEND = (
    "Times are medians of one replay of a CUDA graph, and `runs on` is what was captured in it. A ratio is how many times "
    "faster than serial graphstreams is: `ratio` as a CUDA graph, `direct ratio` launched by the host. Runs, some of each way, "
    "are wrong if outputs or caches differ."
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one number of tokens, under HEADERS."""
    first = [str(row["tokens"]), row["runs_on"]]
    if "failed" in row:
        return [*first, f"failed: {shortened(row['failed'])}", *["-"] * (len(HEADERS) - 3)]
    medians = {way: [row[way][side]["median"] for side in SIDES] for way in ("graph", "direct")}
    ratios = [f"{serial / ours:.2f}x" for serial, ours in medians.values()]
    wrong = f"{sum(row['wrong'].values())} / {sum(row['runs'].values())}"
    return [*first, *(f"{us:.1f}" for us in medians["graph"]), *ratios, wrong]


def told(result: Mapping[str, Any]) -> str:
    """Return what graphstreams reports of the graph, and for which numbers of tokens it runs on streams, with the reason."""
    why = f": {result['reason']}" if result["reason"] else ""
    threshold = result["threshold"]
    limits = f" Threshold: {threshold['reason']}." if threshold else " It has no threshold."
    direct = ""
    if result["verdict"] == "clean":
        bodies = {"serial": "every number of tokens runs the serial body", "streams": "the same body runs as in a CUDA graph"}
        direct = f" Launched by the host {bodies[result['launched_by_the_host']]}."
    return f"Compiled with {result['compiled_at']} tokens; verdict: {result['verdict']}{why}.{limits}{direct}"


def graphs_told(result: Mapping[str, Any]) -> str:
    """Return whether one graph a side served all numbers of tokens, as text."""
    further = [row for row in result["rows"] if row["graphs"] > len(SIDES)]
    if not further:
        return "No number of tokens was compiled again."
    count, tokens = result["rows"][-1]["graphs"], further[0]["tokens"]
    return f"{count} graphs were compiled, not {len(SIDES)}: from {tokens} tokens on, `runs on` need not hold."


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    how = f"Medians of {result['rounds']} rounds, both sides in turns, over {result['captures']} captures of each"
    parts = (
        "# DeepSeek V3.2's layer with a dynamic number of tokens",
        f"{versions(result)}. {how}; tp {result['tp']}, min_gain {result['min_gain']}.",
        f"{told(result)} {graphs_told(result)}",
        markdown([cells(row) for row in result["rows"]], HEADERS),
        LEGEND,
    )
    return "\n\n".join(parts) + "\n"
