"""What benchmarks write down: times, where they were measured, and what graphstreams said of a graph."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch


def largest_report(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of the graph with the most kernels, of all that graphstreams dumped into `directory`.

    Raises RuntimeError where there is no report.
    """
    reports = {path.parent: json.loads(path.read_text()) for path in sorted(directory.glob("*/report.json"))}
    if not reports:
        raise RuntimeError("graphstreams saw no graph")
    return max(reports.items(), key=lambda pair: pair[1]["kernels_serial"])


def write(result: Mapping[str, Any], text: str, stem: Path) -> None:
    """The result as STEM.json and its tables as STEM.md, in a folder that is made if it is missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Device, driver, versions and date."""
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


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of samples in us."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return {"median": round(middle, 3), "first_quartile": round(low, 3), "third_quartile": round(high, 3)}
