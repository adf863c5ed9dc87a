"""Shorten the paths of source files in readable code, so that a report tells nothing of the machine that it was made on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import PurePath

INSTALLED = ("site-packages", "dist-packages")
HOMES = {"home": 3, "Users": 3, "root": 2}  # top folder -> parts up to a user's own folder, whose name is the user's
# As `print_readable` of torch 2.15.0 names a line of source.
_PLACE = re.compile(r"(# (?:Annotation: .* )?File: )(.+?)(:\d+ in )")


def with_short_paths(text: str) -> str:
    """Return readable code in which each comment that names a line of source names its file shortly."""
    folders = _folders()
    return _PLACE.sub(lambda match: f"{match[1]}{short_path(match[2], folders)}{match[3]}", text)


def short_path(path: str, folders: Iterable[str] | None = None) -> str:
    """Return a path as who wrote the file would recognise it, without what is above.

    It is relative to `site-packages`, else to the first of `folders` that holds the file: by default the current folder and
    those that Python imports from. Of other files the last two parts are left, without a user's name. What is no absolute path
    stays as it is.
    """
    parts = PurePath(path).parts
    if not os.path.isabs(path):
        return path
    for place in range(len(parts) - 1, 0, -1):
        if parts[place - 1] in INSTALLED:
            return "/".join(parts[place:])
    for folder in _folders() if folders is None else folders:
        above = PurePath(folder).parts
        if parts[: len(above)] == above:
            return "/".join(parts[len(above) :])
    below = parts[HOMES.get("".join(parts[1:2]), 1) :]
    return "/".join(("...", *below[-2:]))


def _folders() -> list[str]:
    """Return the current folder, and those of `sys.path`, the deepest first; the root of a file system tells nothing."""
    try:
        current = [os.getcwd()]
    except OSError:  # it was deleted
        current = []
    imported = sorted((each for each in sys.path if os.path.isabs(each)), key=len, reverse=True)
    return [each for each in (*current, *imported) if len(PurePath(each).parts) > 1]
