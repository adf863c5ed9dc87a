"""Show, or empty, the folder in which kernel times, plans, calibrations and reports are kept."""

from __future__ import annotations

from pathlib import Path

from graphstreams.reports.kept import SUFFIX

KINDS = ("plans and kernel times", "calibrations", "reports on graphs in Inductor's caches")


def files_of(folder: Path) -> dict[str, list[Path]]:
    """Return the files that are kept, by kind: one of KINDS."""
    found = sorted(path for path in folder.rglob("*.json") if path.is_file())
    calibrations = [path for path in found if path.parent.name == "calibration"]
    plans = [path for path in found if path not in set(calibrations)]
    reports = sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())
    return dict(zip(KINDS, (plans, calibrations, reports), strict=True))


def show(folder: Path) -> str:
    """Return the folder and, for each kind of file, how many there are and their size."""
    lines = [str(folder)]
    for kind, files in files_of(folder).items():
        lines.append(f"  {kind}: {len(files)}, {sum(path.stat().st_size for path in files)} bytes")
    return "\n".join(lines)


def clear(folder: Path) -> str:
    """Delete the plans and kernel times, and say so.

    Calibrations stay: they are the result of a run that the user asked for. So do Inductor's own caches, in which compiled
    graphs with their plans are, and the reports on these graphs. Raises OSError as deleting does.
    """
    plans, *others = files_of(folder).values()
    for path in plans:
        path.unlink(missing_ok=True)  # another process may clear it too
    kept = [f"{len(files)} {kind}" for kind, files in zip(KINDS[1:], others, strict=True) if files]
    return f"{folder}: {len(plans)} files of {KINDS[0]} deleted" + (f"; {', '.join(kept)} stay" if kept else "")
