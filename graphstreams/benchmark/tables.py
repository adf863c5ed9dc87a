"""The tables of a benchmark, from rows of plain data as they stand in bench.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from graphstreams.benchmark.variants import OURS, OWN_VARIANTS, REPLAYED, SERIAL

Row = Mapping[str, Any]  # one workload: "title", "rivals" by name, "seconds", and "failed" if nothing ran
Groups = Mapping[str, str]  # title of a column -> a variant's name, or what stands in front of ": " in those of several

OWN_GROUPS: Groups = {f"graphstreams, {name}": f"{OURS}: {name}" for name in OWN_VARIANTS}
# What results may differ by if rounding is the only difference: bf16 keeps 8 bits, and a few sums follow each other.
ROUNDING = 0.05


def speedup(row: Row, name: str, way: str = "graph") -> float | None:
    """Return how many times faster than serial a variant is; None if either has no time."""
    times = [row.get("rivals", {}).get(each, {}).get(way) for each in (SERIAL, name)]
    return times[0]["median"] / times[1]["median"] if all(times) else None


def best(row: Row, group: str, way: str = "graph") -> str | None:
    """Return the fastest variant of a group; None if none was timed."""
    timed = [name for name in row.get("rivals", {}) if _belongs(name, group) and speedup(row, name, way) is not None]
    return max(timed, key=lambda name: speedup(row, name, way) or 0.0, default=None)


def _belongs(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}: ")


def speed_table(rows: Sequence[Row], groups: Groups, way: str = "graph") -> str:
    """Return serial time and the speed-up of the fastest variant of each group, one row a workload.

    They are CUDA graphs, of which their verdicts and bits are noted, or launched by the host (`way` is "direct").
    """
    return _table(rows, groups, way, _note if way == "graph" else _variant)


def host_table(rows: Sequence[Row], groups: Groups) -> str:
    """Return the host time of serial's call, and how many times as long that of each group's cheapest variant is."""
    lines = []
    for row in rows:
        names = [best(row, group, "host") for group in groups.values()]
        gains = [speedup(row, name, "host") if name else None for name in names]
        lines.append([row["title"], _median(row, "host"), *(f"{1 / gain:.2f}" if gain else "-" for gain in gains)])
    return markdown(lines, ["workload", "serial us", *groups])


def policy_table(rows: Sequence[Row]) -> str:
    """Return serial time and the speed-up of each replayed plan."""
    replayed = dict.fromkeys(name for row in rows for name in row.get("rivals", {}) if _belongs(name, REPLAYED))
    return _table(rows, {name.removeprefix(f"{REPLAYED}: "): name for name in replayed}, "graph", _syncs)


def bits_table(rows: Sequence[Row]) -> str:
    """Return the runs with other bits than serial's, one line a workload and variant."""
    lines = []
    for row in rows:
        for name, record in row.get("rivals", {}).items():
            if "wrong" in record:
                runs = ", ".join(f"{way} {record['wrong'][way]}/{record['runs'][way]}" for way in record["runs"])
                size = f"{record['difference']:.1e}" if any(record["wrong"].values()) else "-"
                lines.append([row["title"], name, runs, size, record["unstable"] or "-"])
    return markdown(lines, ["workload", "rival", "wrong / runs", "largest difference", "unstable"])


def stages_table(rows: Sequence[Row]) -> str:
    """Return plans measured and seconds of each stage of planning, one line a workload and variant of graphstreams."""
    lines = []
    for row in rows:
        for name, record in row.get("rivals", {}).items():
            if stages := record.get("stages"):
                seconds = [f"{stages[stage]:.2f}" if stage in stages else "-" for stage in ("price", "plan", "measure")]
                measured = record["measured"] or {}
                earlier = ", by an earlier compile" if measured.get("from_disk") else ""
                lines.append([row["title"], name, f"{measured.get('tried', '-')}{earlier}", *seconds])
    return markdown(lines, ["workload", "rival", "plans measured", "price s", "plan s", "measure s"])


def times_table(rows: Sequence[Row]) -> str:
    """Return medians and quartiles of every variant in us, and what failed."""
    lines = []
    for row in rows:
        if row.get("failed"):
            lines.append([row["title"], "-", f"failed: {shortened(row['failed'])}", "-", "-", "-"])
        for name, record in row.get("rivals", {}).items():
            note = record.get("failed") or record.get("reason") or ""
            times = [_times(record.get(way)) for way in ("graph", "direct", "host")]
            lines.append([row["title"], name, *times, shortened(note)])
    return markdown(lines, ["workload", "rival", "graph us", "direct us", "host us", "note"])


def progress(row: Row, groups: Groups) -> str:
    """Return one workload in one line."""
    if row.get("failed"):
        return f"{row['title']}: failed: {shortened(row['failed'])}"
    every = {**groups, **OWN_GROUPS}
    shown = [f"{title} {_cell(row, group, 'graph', _variant)}" for title, group in every.items() if best(row, group)]
    broken = [name for name, record in row["rivals"].items() if record.get("failed")]
    failed = f"; failed: {', '.join(broken)}" if broken else ""
    return f"{row['title']}: serial {_median(row, 'graph')} us; {', '.join(shown)}{failed} ({row['seconds']:.0f} s)"


def _table(rows: Sequence[Row], columns: Groups, way: str, note: Callable[[Row, str, str], str]) -> str:
    lines = []
    for row in rows:
        if row.get("failed"):
            lines.append([row["title"], f"failed: {shortened(row['failed'])}", *["-"] * len(columns)])
        else:
            lines.append([row["title"], _median(row, way), *(_cell(row, group, way, note) for group in columns.values())])
    return markdown(lines, ["workload", "serial us", *columns])


def _cell(row: Row, group: str, way: str, note: Callable[[Row, str, str], str]) -> str:
    name = best(row, group, way)
    if name is None:
        return "failed" if any(_belongs(n, group) and r.get("failed") for n, r in row.get("rivals", {}).items()) else "-"
    return f"{speedup(row, name, way):.2f}x{note(row, name, group)}"


def _variant(row: Row, name: str, group: str) -> str:
    return f" ({name.removeprefix(f'{group}: ')})" if name != group else ""


def _note(row: Row, name: str, group: str) -> str:
    record = row["rivals"][name]
    verdict = record.get("verdict", "clean")
    text = _variant(row, name, group) + (f" ({verdict})" if verdict != "clean" else "")
    if any(record.get("wrong", {}).values()):
        text += " !" if record["difference"] > ROUNDING or record["unstable"] else " ≠"
    return text


def _syncs(row: Row, name: str, group: str) -> str:
    record = row["rivals"][name]
    return f" ({record['streams']}, {record['waits']})" if "waits" in record else ""


def _median(row: Row, way: str) -> str:
    times = row.get("rivals", {}).get(SERIAL, {}).get(way)
    return f"{times['median']:.1f}" if times else "-"


def _times(times: Mapping[str, float] | None) -> str:
    return f"{times['median']:.1f} ({times['first_quartile']:.1f}-{times['third_quartile']:.1f})" if times else "-"


def shortened(text: str, limit: int = 120) -> str:
    """Return text for a cell of a table: one line of at most `limit` characters."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def markdown(lines: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return a table in markdown; numbers are shown as given, and a bar, which would end its cell, as a slash."""
    shown = [[str(cell).replace("|", "/") for cell in line] for line in (headers, *lines)]
    return tabulate(shown[1:], headers=shown[0], tablefmt="github", disable_numparse=True)
