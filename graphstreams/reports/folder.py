"""Choose the folder of a graph's report, so that several processes, or graphs, that dump into one folder keep theirs apart."""

from __future__ import annotations

import os
import socket
from pathlib import Path

MARK = ".process"  # a file that names the host and the process whose report a folder holds, and the graph's key


def folder_for(folder: Path, key: str = "") -> Path:
    """Return `folder`, made and marked as this process's, for the graph with that key.

    ".process<id>" is appended if it is the folder of another process that runs, ".2" and so on if this process has written the
    report on another graph there: names of graphs from caches may be equal. A graph without a key counts as another one. What
    a process has left that has ended is taken over. A process on another host counts as running. Raises OSError if the folder
    can't be made or written.
    """
    own, number = f"{socket.gethostname()} {os.getpid()}", 1
    while True:
        for name in (folder.name, f"{folder.name}.process{os.getpid()}"):
            place = folder.with_name(f"{name}.{number}" if number > 1 else name)
            owner = _taken(place, f"{own} {key}".rstrip())
            if not owner:
                return place
            if f"{owner} ".startswith(f"{own} "):
                break  # another process is not why
        number += 1


def _taken(folder: Path, mark: str) -> str:
    """Mark a folder and return "", or return the mark of the process that runs, and the graph, whose folder it is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / MARK
    try:
        with file.open("x", encoding="utf-8") as new:  # of several processes at once, one makes it
            new.write(mark)
        return ""
    except FileExistsError:
        owner = file.read_text(encoding="utf-8", errors="replace")
    if (owner != mark or mark.count(" ") < 2) and _runs(owner):
        return owner
    file.write_text(mark, encoding="utf-8")
    return ""


def _runs(owner: str) -> bool:
    """Return whether a mark is that of a process that runs."""
    host, process = (*owner.split(" "), "")[:2]
    if not process.isdecimal() or int(process) == 0:
        return False  # a mark that was not written to its end
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(process), 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
