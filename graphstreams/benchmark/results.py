"""Write what a benchmark finds: result files, where they were measured, and what graphstreams reports of a graph."""

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

from graphstreams.benchmark.report import report
from graphstreams.benchmark.tables import Groups, progress
from graphstreams.benchmark.timing import REPEATS, captures_in
from graphstreams.benchmark.variants import OURS


def reports_in(directory: Path) -> dict[Path, dict[str, Any]]:
    """Return the report of each graph that graphstreams dumped into `directory`, by the graph's folder."""
    return {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*/report.json"))}


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


def empty_result(title: str, groups: Groups, settings: Sequence[str], rounds: int, replays: int) -> dict[str, Any]:
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
    say(f"[{result['seconds']:.0f} s] {setting}: {progress(row, result['groups'])}")
    if out is not None:
        write(result, report(result), out / "bench")


def sound(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all that graphstreams compiled ran, and had serial's bits wherever these were compared."""
    ours = [record for row in rows for name, record in row["rivals"].items() if name.startswith(f"{OURS}: ")]
    failed = any(each.get("failed") for each in (*rows, *ours))
    return bool(ours) and not failed and not any(any(record.get("wrong", {}).values()) for record in ours)
