"""What a benchmark finds, as plain data: where it was measured, all its tables as markdown, and the files of both."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from graphstreams.benchmark import reference, tables
from graphstreams.benchmark.timing import REPEATS, captures_in
from graphstreams.benchmark.variants import OURS
from graphstreams.runtime.ranks import folder_of_rank

SETTINGS = {"deterministic": "with Inductor's setting `deterministic`", "default": "with Inductor's own settings"}

_LEGEND = (
    "Serial is the time of one replay of a CUDA graph in us, all else how many times faster than serial in the same run. "
    "In brackets: the fastest variant, or that graphstreams left the graph serial. ≠: other bits than serial; !: wrong by "
    "more than rounding."
)
_POLICY_LEGEND = (
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
    "for the variant of each group whose calls return soonest. With more than a thousand launches a call waits for the GPU too."
)


def reports_in(directory: Path) -> dict[Path, dict[str, Any]]:
    """Return the report of each graph that this process, or this rank, dumped into `directory`, by the graph's folder."""
    found = sorted((directory / folder_of_rank()).glob("*/report.json"))
    return {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in found}


def largest_report(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the report of the graph with the most kernels of all in `directory`.

    Raises RuntimeError if there is no report.
    """
    reports = reports_in(directory)
    if not reports:
        raise RuntimeError("graphstreams saw no graph")
    return max(reports.items(), key=lambda pair: pair[1]["kernels_serial"])


def write(result: Mapping[str, Any], text: str, stem: Path) -> None:
    """Write the result as STEM.json and its tables as STEM.md; the folder is made if it is missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")


def write_or_print(data: Mapping[str, Any], path: Path | None) -> None:
    """Write data as JSON into a file, whose folder is made if it is missing, or print it if no file is given."""
    text = json.dumps(data, indent=1) + "\n"
    if path is None:
        print(text, end="")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return device, driver, versions, date and command."""
    import triton

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "device": torch.cuda.get_device_name(),
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "command": " ".join(sys.argv),
    }


def empty_result(title: str, groups: tables.Groups, settings: Sequence[str], rounds: int, replays: int) -> dict[str, Any]:
    """Return the result of a benchmark that has measured nothing yet, for `add_row` and `report`."""
    captures = captures_in(rounds)
    told = {"title": title, "groups": groups, "repeats": REPEATS, "rounds": rounds, "captures": captures, "replays": replays}
    return {**environment(), **told, "passes": {setting: [] for setting in settings}}


def add_row(
    result: dict[str, Any], setting: str, row: Mapping[str, Any], seconds: float, out: Path | None, say: Callable[[str], None]
) -> None:
    """Add a workload measured under `setting`, pass a line on it to `say`, and write bench.md and bench.json to `out`.

    `seconds` have passed since the benchmark began.
    """
    result["passes"][setting].append(row)
    result["seconds"] = round(seconds, 1)
    say(f"[{result['seconds']:.0f} s] {setting}: {tables.progress(row, result['groups'])}")
    if out is not None:
        write(result, report(result), out / "bench")


def sound(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all that graphstreams compiled ran, and had serial's bits wherever these were compared."""
    ours = [record for row in rows for name, record in row["rivals"].items() if name.startswith(f"{OURS}: ")]
    failed = any(each.get("failed") for each in (*rows, *ours))
    return bool(ours) and not failed and not any(any(record.get("wrong", {}).values()) for record in ours)


def report(result: Mapping[str, Any]) -> str:
    """Return all tables of a result as markdown.

    The result has "title", "groups" of variants, the rows of each of "passes", and what `machine` needs.
    """
    groups = {**result["groups"], **tables.OWN_GROUPS}
    parts = [f"# {result['title']}\n\n{machine(result)}"]
    for setting, rows in result["passes"].items():
        if not rows:
            continue
        parts.append(f"## Speed, {SETTINGS[setting]}\n\n{tables.speed_table(rows, groups)}\n\n{_LEGEND}")
        autotuned = reference.asked_for(rows)
        if autotuned:
            against = reference.reference_table(rows, groups)
            parts.append(f"### Against serial Inductor at its best\n\n{against}\n\n{reference.REFERENCE_LEGEND}")
        compared = any("difference" in record for row in rows for record in row["rivals"].values())
        if compared and (autotuned or setting != "deterministic"):  # else they stand in the table of bits
            apart = reference.differences_table(rows)
            parts.append(f"### Largest difference from serial\n\n{apart}\n\n{reference.DIFFERENCES_LEGEND}")
        if setting == "deterministic":
            parts.append(f"### Policies on the same kernels\n\n{tables.policy_table(rows)}\n\n{_POLICY_LEGEND}")
            parts.append(f"### Bits\n\n{tables.bits_table(rows)}\n\n{_BITS_LEGEND}")
            parts.append(f"### Launched by the host, without CUDA graphs\n\n{tables.speed_table(rows, groups, 'direct')}")
            parts.append(f"### Host time of a call, without CUDA graphs\n\n{tables.host_table(rows, groups)}\n\n{_HOST_LEGEND}")
        parts.append(f"### Choosing plans, {SETTINGS[setting]}\n\n{tables.stages_table(rows)}\n\n{_STAGES_LEGEND}")
        parts.append(f"### Times, {SETTINGS[setting]}\n\n{tables.times_table(rows)}")
    return "\n\n".join(parts) + "\n"


def machine(result: Mapping[str, Any]) -> str:
    """Return where and how the result was measured, in a sentence or two."""
    return (
        f"{versions(result)}. Medians of {result['rounds']} rounds of {result['repeats']} replays, all variants of a workload "
        f"in turns, over {result['captures']} captures of each; bits over {result['replays']} replays on fresh random inputs."
    )


def versions(result: Mapping[str, Any]) -> str:
    """Return what the result was measured on, and when, without a full stop."""
    software = f"torch {result['torch']} (CUDA {result['cuda']}), triton {result['triton']}, Python {result['python']}"
    return f"{result['device']} (driver {result['driver']}), {software}; {result['date']}"
