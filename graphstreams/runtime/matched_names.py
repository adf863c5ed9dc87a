"""Remember which names that a user has given matched something in this process, as the graphs come one after another."""

from __future__ import annotations

_matched: set[tuple[str, str]] = set()  # option and name
_told: set[tuple[str, str]] = set()


def note_match(option: str, name: str) -> None:
    """Note that a name matches something in a graph."""
    _matched.add((option, name))


def is_news(option: str, name: str) -> bool:
    """Return whether a name has matched nothing in this process so far, and that has not been said yet; then it has been."""
    key = option, name
    if key in _matched or key in _told:
        return False
    _told.add(key)
    return True
