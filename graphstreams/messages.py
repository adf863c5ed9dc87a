"""One line of text from an error or a value, however long or deep it is."""

from __future__ import annotations

import reprlib

LONGEST_LINE = 400  # characters


def one_line(error: BaseException) -> str:
    """Return what `error` says, in one line: the first paragraph of its message, or the name of its type if it has none."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return shortened(f"{error.filename}: {error.strerror}")
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error).strip().partition("\n\n")[0]
    return shortened(text) if text else type(error).__name__


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """Return `text` as one line of printable characters, cut at `longest`."""
    line = " ".join(text.split())
    if len(line) > longest:
        line = f"{line[: longest - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def shown(value: object) -> str:
    """Return a value as Python writes it, cut where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    short.maxlong = 40
    short.maxlevel = 3
    try:
        return short.repr(value)
    except ValueError:  # an integer with more digits than Python writes
        return f"a {type(value).__name__} too long to show"
