"""Keep the report on a compiled graph on disk, where a process finds it that finds the graph in a cache."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path

from graphstreams.inductor.disk_cache import write_whole
from graphstreams.reports.report import Report

SUFFIX = ".report"


def keep(report: Report, folder: Path) -> None:
    """Write a report into `folder` under the key in its verdict, if it has one. Raises OSError."""
    if key := report.as_verdict().report_key:
        write_whole(_path(folder, key), zlib.compress(pickle.dumps(report)))


def kept(key: str, folder: Path) -> Report | None:
    """Return the report that was kept under a verdict's key; None if there is none that can be read."""
    try:
        report = pickle.loads(zlib.decompress(_path(folder, key).read_bytes()))
        # Fields of another version may be missing, or hold something else.
        return report if isinstance(report, Report) and report.as_verdict().report_key == key else None
    except Exception:  # unpickling a file that another program wrote may raise anything
        return None


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}{SUFFIX}"
