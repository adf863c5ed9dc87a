"""The tables of `deepseek_model.py`, from rows of plain data as they stand in its JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_cases import WHOLE

from graphstreams.benchmark.results import versions
from graphstreams.benchmark.tables import best, markdown, shortened, speedup
from graphstreams.benchmark.variants import OURS, SERIAL

HAND = "by hand"
SPEED = ("case", "ranks", "serial us", "by hand us", "graphstreams us", "by hand", "graphstreams", "verdict")
BITS = ("case", "variant", "wrong runs / runs", "largest difference")
WHOLE_MODEL = (
    "case",
    "layers",
    "serial ms",
    "by hand ms",
    "graphstreams ms",
    "all-reduce us",
    "on other ranks: serial us",
    "ratio",
)
LEGEND = (
    "Times are the us of one replay of a CUDA graph, which decodes one token of each sequence in all layers of the case: the "
    "median and quartiles over rounds, of each round those of the slowest rank. A ratio is how many times faster than serial a "
    "variant is in the same run."
)
PARTS_LEGEND = (
    "Computed, not measured: all layers of the model as so many of those measured, without embedding and vocabulary; and a "
    "token of the case with the all-reduces of other ranks, each of which takes `--all-reduce-us`, in place of those measured "
    "(two a layer). The shapes are those of one of eight ranks however many ran."
)


def speed_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a case under SPEED."""
    first = [row["title"], str(row["ranks"])]
    if row.get("failed"):
        return [*first, f"failed: {shortened(row['failed'])}", *["-"] * (len(SPEED) - 3)]
    ours = row["rivals"].get(OURS, {})
    names = (SERIAL, best(row, HAND), OURS)
    verdict = ours.get("failed") and f"failed: {shortened(ours['failed'])}"
    reason = f": {shortened(ours['reason'])}" if ours.get("reason") else ""
    ratios = [_ratio(speedup(row, name)) if name else "-" for name in names[1:]]
    return [*first, *(_times(row, name) for name in names), *ratios, verdict or f"{ours.get('verdict', '-')}{reason}"]


def bits_cells(row: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of a case under BITS."""
    return [
        [row["title"], name, f"{record['wrong']} / {record['runs']}", f"{record['difference']:.1e}" if record["wrong"] else "-"]
        for name, record in row["rivals"].items()
        if "wrong" in record
    ]


def whole_us(row: Mapping[str, Any], name: str) -> float | None:
    """Return the us of a token in the whole model, as so many of the layers that were measured; None if there is no time."""
    times = row["rivals"].get(name, {}).get("graph")
    return times["median"] / row["layers"] * WHOLE[row["model"]] if times else None


def on_other_ranks_us(row: Mapping[str, Any], name: str, all_reduce_us: float) -> float | None:
    """Return the us of a token if each all-reduce takes so long; None if there is no time. Each layer has two of them."""
    times = row["rivals"].get(name, {}).get("graph")
    return times["median"] + 2 * row["layers"] * (all_reduce_us - (row.get("all_reduce_us") or 0.0)) if times else None


def whole_model_cells(row: Mapping[str, Any], all_reduce_us: float | None) -> list[str]:
    """Return the cells of a case under WHOLE_MODEL."""
    hand = best(row, HAND)
    whole = [whole_us(row, name) if name else None for name in (SERIAL, hand, OURS)]
    measured = row.get("all_reduce_us")
    others = [on_other_ranks_us(row, name, all_reduce_us) if all_reduce_us is not None else None for name in (SERIAL, OURS)]
    cells = [row["title"], str(WHOLE[row["model"]]), *("-" if us is None else f"{us / 1000:.2f}" for us in whole)]
    serial, ours = others
    ratio = serial / ours if serial is not None and ours is not None else None
    return [*cells, "-" if measured is None else f"{measured:.1f}", "-" if serial is None else f"{serial:.1f}", _ratio(ratio)]


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    measured = [row for row in rows if not row.get("failed")]
    how = f"{result['rounds']} rounds, all variants in turns, over {result['captures']} captures of each"
    settings = f"settings of Inductor, of all variants: {result['settings']}"
    given = result["all_reduce_us"]
    parts = (
        "# Decoder layers of DeepSeek",
        f"{versions(result)}. {how}; compiled {result['compiled']}; {settings}.",
        markdown([speed_cells(row) for row in rows], SPEED),
        LEGEND,
        markdown([line for row in measured for line in bits_cells(row)], BITS),
        markdown([whole_model_cells(row, given) for row in measured], WHOLE_MODEL),
        PARTS_LEGEND,
    )
    return "\n\n".join(parts) + "\n"


def progress(row: Mapping[str, Any]) -> str:
    """Return a case in one line."""
    return ", ".join(map(": ".join, zip(SPEED, speed_cells(row), strict=True))) + f" ({row['seconds']:.0f} s)"


def _times(row: Mapping[str, Any], name: str | None) -> str:
    record = row["rivals"].get(name, {}) if name else {}
    if record.get("failed"):
        return "failed"
    times = record.get("graph")
    return f"{times['median']:.1f} ({times['first_quartile']:.1f}-{times['third_quartile']:.1f})" if times else "-"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}x"
