"""Read files that a user names, and check before any work is done that others can be written."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

LARGEST = 16 * 2**20  # bytes


def read_text(path: str | os.PathLike[str], largest: int = LARGEST) -> str:
    """Return the text of a file in UTF-8, without the mark that some editors put in front of it.

    Raises ValueError, without the file's name, if there are more than `largest` bytes or they are no text; OSError as `open`
    does.
    """
    with open(path, "rb") as file:
        content = file.read(largest + 1)  # of a device that never ends too
    if len(content) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8: {error.reason} at byte {error.start}") from None


def files_in_folder(folder: Path, own: str, name: str) -> list[Path]:
    """Return the files in a folder that are called `name` or <something>.<name>, and those called `name` in folders below it.

    `own` is the folder of this rank in it: if it is there, its files are meant and no others.
    """
    base = folder / own if (folder / own).is_dir() else folder
    return sorted({*base.glob(name), *base.glob(f"*.{name}"), *base.glob(f"*/{name}")})


def hash_of_files(paths: Iterable[Path]) -> bytes:
    """Return a hash of the paths and contents of files. Raises OSError as `open` does."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr((str(path), path.read_bytes())).encode())
    return digest.digest()


def make_folder(path: Path) -> None:
    """Make the folder if it is missing, and check that files can be written there.

    Raises ValueError, with the folder's name, if they can't.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _try_to_write(path)
    except OSError as error:
        raise ValueError(f"{path} is no folder that can be written: {error.strerror}") from None


def check_file(path: Path) -> None:
    """Raise ValueError, with the file's name, if it can't be written. A file that is missing is not made."""
    try:
        if path.exists():
            with open(path, "ab"):
                return
        _try_to_write(path.absolute().parent)
    except OSError as error:
        raise ValueError(f"{path} is no file that can be written: {error.strerror}") from None


def _try_to_write(folder: Path) -> None:
    # Permissions don't tell: root has all, and some file systems take no files.
    with tempfile.TemporaryFile(dir=folder):
        pass
