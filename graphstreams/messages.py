"""Write an error or a value, however long or deep it is, as one line of text."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

LONGEST_LINE = 400  # characters


def one_line(error: BaseException) -> str:
    """Return what `error` says, in one line: the first paragraph of its message, or the name of its type if it has none."""
    if isinstance(error, OSError) and error.strerror:
        return shortened(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    try:
        text = str(error).strip().partition("\n\n")[0]
    except Exception:  # an error of the user's own
        text = ""
    return shortened(text) if text else type(error).__name__


def with_type(error: BaseException) -> str:
    """Return the name of the type of `error` and what it says, in one line."""
    kind, text = type(error).__name__, one_line(error)
    return kind if text == kind else f"{kind}: {text}"


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """Return `text` as one line of printable characters, cut at `longest`."""
    line = " ".join(text.split())
    if len(line) > longest:
        line = f"{line[: longest - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} more" if others > 0 else "")


def shown(value: object) -> str:
    """Return a value as Python writes it, cut if it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    short.maxlong = 40
    short.maxlevel = 3
    try:
        return short.repr(value)
    except ValueError:  # an integer with more digits than Python writes
        return "a number too long to show"
