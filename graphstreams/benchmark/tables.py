"""The results of a contest as tables. A result is plain data, as it stands in bench.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from graphstreams.benchmark.variants import OURS, PLAYED, SERIAL, VARIANTS

Row = Mapping[str, Any]  # one workload: "title", "rivals" by name, "seconds", and "failed" where it could not run at all
Partition = Mapping[str, str]  # title of a column -> a rival's name, or what stands in front of ": " in those of several

OUR_GROUPS: Partition = {f"graphstreams, {name}": f"{OURS}: {name}" for name in VARIANTS}
SETTINGS = {"deterministic": "with Inductor's setting `deterministic`", "default": "with Inductor's own settings"}
# What the bits may differ by where rounding is the only difference: bf16 keeps 8 bits, and a few sums follow each other.
ROUNDING = 0.05


def report(result: Mapping[str, Any]) -> str:
    """All tables of a result as markdown: "title", "groups" of rivals, rows of each of "passes", and where it was measured."""
    groups = {**result["groups"], **OUR_GROUPS}
    parts = [f"# {result['title']}\n\n{machine(result)}"]
    for setting, rows in result["passes"].items():
        if rows:
            parts.append(f"## Speed, {SETTINGS[setting]}\n\n{speed_table(rows, groups)}\n\n{_LEGEND}")
        if setting == "deterministic" and rows:
            parts.append(f"### Policies on the same kernels\n\n{policy_table(rows)}\n\n{_PLAYED_LEGEND}")
            parts.append(f"### Bits\n\n{bits_table(rows)}\n\n{_BITS_LEGEND}")
            parts.append(f"### Launched by the host, without CUDA graphs\n\n{direct_table(rows, groups)}")
            parts.append(f"### Host time of a call, without CUDA graphs\n\n{host_table(rows, groups)}\n\n{_HOST_LEGEND}")
        if rows:
            parts.append(f"### Choosing plans, {SETTINGS[setting]}\n\n{stages_table(rows)}\n\n{_STAGES_LEGEND}")
            parts.append(f"### Times, {SETTINGS[setting]}\n\n{times_table(rows)}")
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Serial is the time of one replay of a CUDA graph in us, all else how many times faster than serial in the same run. "
    "In brackets: the fastest variant, or that graphstreams left the graph serial. ≠: other bits than serial; !: wrong by "
    "more than rounding."
)
_PLAYED_LEGEND = (
    "The kernels of the serial graph, launched on streams in the order of each policy, with the fewest events that keep it "
    "right: how many times faster than serial Inductor; in brackets: streams and waits. Nothing is compiled again for a plan."
)
_BITS_LEGEND = (
    "Runs with other outputs or caches than serial's / runs, as CUDA graphs and launched directly. Then the largest "
    "difference relative to the largest value, and how many of the wrong runs gave yet other bits when they were repeated."
)
_STAGES_LEGEND = (
    "Seconds of the host for kernels' times, for the plan (with the search), and for timing the generated code. Kernels that "
    "an earlier compile has timed are not timed again."
)

_HOST_LEGEND = (
    "Serial is the us until a call has returned, when its kernels may still run; all else how many times as long that takes, "
    "for the rival of each group whose calls return soonest. With more than a thousand launches a call waits for the GPU too."
)


def machine(result: Mapping[str, Any]) -> str:
    """Where and how the result was measured, in a sentence or two."""
    return (
        f"{versions(result)}. Medians of {result['rounds']} rounds of {result['repeats']} replays, all rivals of a workload "
        f"in turns, over {result['captures']} captures of each; bits over {result['replays']} replays on fresh random inputs."
    )


def versions(result: Mapping[str, Any]) -> str:
    """What the result was measured on, and when, without a full stop."""
    software = f"torch {result['torch']} (CUDA {result['cuda']}), triton {result['triton']}, Python {result['python']}"
    return f"{result['device']} (driver {result['driver']}), {software}; {result['date']}"


def speedup(row: Row, name: str, way: str = "graph") -> float | None:
    """How many times faster than serial a rival is; None where either has no time."""
    times = [row.get("rivals", {}).get(each, {}).get(way) for each in (SERIAL, name)]
    return times[0]["median"] / times[1]["median"] if all(times) else None


def best(row: Row, group: str, way: str = "graph") -> str | None:
    """The fastest rival of a group."""
    timed = [name for name in row.get("rivals", {}) if _belongs(name, group) and speedup(row, name, way) is not None]
    return max(timed, key=lambda name: speedup(row, name, way) or 0.0, default=None)


def _belongs(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}: ")


def speed_table(rows: Sequence[Row], groups: Partition) -> str:
    """Serial time and the speed-up of the fastest rival of each group, one row a workload."""
    return _table(rows, groups, "graph", _note)


def direct_table(rows: Sequence[Row], groups: Partition) -> str:
    """The same where the host launches every kernel."""
    return _table(rows, groups, "direct", _variant)


def host_table(rows: Sequence[Row], groups: Partition) -> str:
    """The host time of serial's call, and how many times as long that of each group's cheapest rival is."""
    lines = []
    for row in rows:
        names = [best(row, group, "host") for group in groups.values()]
        gains = [speedup(row, name, "host") if name else None for name in names]
        lines.append([row["title"], _median(row, "host"), *(f"{1 / gain:.2f}" if gain else "-" for gain in gains)])
    return markdown(lines, ["workload", "serial us", *groups])


def policy_table(rows: Sequence[Row]) -> str:
    """Serial time and the speed-up of each played plan."""
    played = dict.fromkeys(name for row in rows for name in row.get("rivals", {}) if _belongs(name, PLAYED))
    return _table(rows, {name.removeprefix(f"{PLAYED}: "): name for name in played}, "graph", _syncs)


def bits_table(rows: Sequence[Row]) -> str:
    """Runs with other bits than serial's, one line a workload and rival."""
    lines = []
    for row in rows:
        for name, rival in row.get("rivals", {}).items():
            if "wrong" in rival:
                runs = ", ".join(f"{way} {rival['wrong'][way]}/{rival['runs'][way]}" for way in rival["runs"])
                size = f"{rival['difference']:.1e}" if any(rival["wrong"].values()) else "-"
                lines.append([row["title"], name, runs, size, rival["unstable"] or "-"])
    return markdown(lines, ["workload", "rival", "wrong / runs", "largest difference", "unstable"])


def stages_table(rows: Sequence[Row]) -> str:
    """Plans measured, and how long each stage of planning took, one line a workload and variant of graphstreams."""
    lines = []
    for row in rows:
        for name, rival in row.get("rivals", {}).items():
            if stages := rival.get("stages"):
                seconds = [f"{stages[stage]:.2f}" if stage in stages else "-" for stage in ("price", "plan", "measure")]
                measured = rival["measured"] or {}
                earlier = ", by an earlier compile" if measured.get("from_disk") else ""
                lines.append([row["title"], name, f"{measured.get('tried', '-')}{earlier}", *seconds])
    return markdown(lines, ["workload", "rival", "plans measured", "price s", "plan s", "measure s"])


def times_table(rows: Sequence[Row]) -> str:
    """Medians and quartiles of every rival in us, and what failed."""
    lines = []
    for row in rows:
        if row.get("failed"):
            lines.append([row["title"], "-", f"failed: {shortened(row['failed'])}", "-", "-", "-"])
        for name, rival in row.get("rivals", {}).items():
            note = rival.get("failed") or rival.get("reason") or ""
            times = [_times(rival.get(way)) for way in ("graph", "direct", "host")]
            lines.append([row["title"], name, *times, shortened(note)])
    return markdown(lines, ["workload", "rival", "graph us", "direct us", "host us", "note"])


def progress(row: Row, groups: Partition) -> str:
    """One workload in one line."""
    if row.get("failed"):
        return f"{row['title']}: failed: {shortened(row['failed'])}"
    every = {**groups, **OUR_GROUPS}
    shown = [f"{title} {_cell(row, group, 'graph', _variant)}" for title, group in every.items() if best(row, group)]
    broken = [name for name, rival in row["rivals"].items() if rival.get("failed")]
    failed = f"; failed: {', '.join(broken)}" if broken else ""
    return f"{row['title']}: serial {_median(row, 'graph')} us; {', '.join(shown)}{failed} ({row['seconds']:.0f} s)"


def _table(rows: Sequence[Row], columns: Partition, way: str, note: Callable[[Row, str, str], str]) -> str:
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
    rival = row["rivals"][name]
    verdict = rival.get("verdict", "clean")
    text = _variant(row, name, group) + (f" ({verdict})" if verdict != "clean" else "")
    if any(rival.get("wrong", {}).values()):
        text += " !" if rival["difference"] > ROUNDING or rival["unstable"] else " ≠"
    return text


def _syncs(row: Row, name: str, group: str) -> str:
    rival = row["rivals"][name]
    return f" ({rival['streams']}, {rival['waits']})" if "waits" in rival else ""


def _median(row: Row, way: str) -> str:
    times = row.get("rivals", {}).get(SERIAL, {}).get(way)
    return f"{times['median']:.1f}" if times else "-"


def _times(times: Mapping[str, float] | None) -> str:
    return f"{times['median']:.1f} ({times['first_quartile']:.1f}-{times['third_quartile']:.1f})" if times else "-"


def shortened(text: str, limit: int = 120) -> str:
    """Text for a cell of a table: one line of at most `limit` characters."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def markdown(lines: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A table in markdown; numbers are shown as they are given, and a bar, which would end its cell, as a slash."""
    shown = [[str(cell).replace("|", "/") for cell in line] for line in (headers, *lines)]
    return tabulate(shown[1:], headers=shown[0], tablefmt="github", disable_numparse=True)
