"""Choose the folder of a graph's report, so that several processes that dump into one folder keep theirs apart."""

from __future__ import annotations

import os
import socket
from pathlib import Path

MARK = ".process"  # a file that names the host and the process whose report a folder holds


def folder_for(folder: Path) -> Path:
    """Return `folder`, made and marked as this process's; with ".process<id>" appended if it is that of another one that runs.

    What a process has left that has ended is taken over. A process on another host counts as running. Raises OSError if the
    folder can't be made or written.
    """
    if _taken(folder):
        return folder
    other = folder.with_name(f"{folder.name}.process{os.getpid()}")
    other.mkdir(parents=True, exist_ok=True)
    (other / MARK).write_text(_own(), encoding="utf-8")
    return other


def _taken(folder: Path) -> bool:
    """Return whether the folder is this process's now."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    try:
        with mark.open("x", encoding="utf-8") as file:  # of several processes at once, one makes it
            file.write(_own())
        return True
    except FileExistsError:
        owner = mark.read_text(encoding="utf-8", errors="replace")
    if owner != _own() and _runs(owner):
        return False
    mark.write_text(_own(), encoding="utf-8")
    return True


def _own() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _runs(owner: str) -> bool:
    host, _, process = owner.rpartition(" ")
    if host != socket.gethostname():
        return True
    if not process.isdecimal() or int(process) == 0:
        return False  # a mark that was not written to its end
    try:
        os.kill(int(process), 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
