"""What the benchmarks share: a rival that runs as a CUDA graph or from the host, its times, and where it was measured."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from graphstreams.runtime.captured import Captured, clones, leaves


class Contestant(Captured):
    """A compiled function with inputs of its own, as a CUDA graph and launched by the host."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        """`values` are cloned. Raises what compiling, running or capturing the function raises."""
        function(*clones(values))  # compiles, on the stream that the program is on
        super().__init__(function, values)

    def direct(self) -> None:
        """Enqueue every kernel from the host."""
        self.function(*self.inputs)

    def results(self, values: Sequence[Any], direct: bool = False) -> list[Any]:
        """Outputs and changed inputs on fresh inputs. A later call overwrites those of a graph."""
        self.load(values)
        if direct:
            return [*leaves(self.function(*self.inputs)), *self.inputs]
        self.replay()
        return [*self.outputs, *self.inputs]


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
