"""Change kernels: they use other pointers than Inductor's, or get their arguments in another order."""

from __future__ import annotations

import re

from tests.support.text_mutants.text import Text

_POINTER = r"\b(?:in|out|in_out)_ptr\d+\b"
_ACCESS = re.compile(rf"\s*(?:\w+ = )?tl\.(?:load|store)\({_POINTER}")


def rename_pointer(text: Text) -> None:
    """Let one access of a kernel go to another of its parameters."""
    place = _access(text)
    if place is not None:
        _exchange(text, place)


def second_store(text: Text) -> None:
    """Let a kernel store what it stores a second time, at another place."""
    place = _access(text, "tl.store(")
    if place is not None:
        _insert(text, place, text.lines[place])
        _exchange(text, place)


def second_load(text: Text) -> None:
    """Let a kernel load from another place too, beside a load."""
    place = _access(text, "tl.load(")
    if place is not None:
        _insert(text, place, text.lines[place])
        _exchange(text, place)


def swap_parameters(text: Text) -> None:
    """Exchange parameters that a launch gives by position."""
    places = [i for i in range(text.first) if text.lines[i].startswith("def ") and len(re.findall(_POINTER, text.lines[i])) > 1]
    if places:
        place = text.rng.choice(places)
        one, two = text.rng.sample(re.findall(_POINTER, text.lines[place]), 2)
        exchange = {one: two, two: one}
        text.lines[place] = re.sub(_POINTER, lambda match: exchange.get(match[0], match[0]), text.lines[place])


def _access(text: Text, what: str = "") -> int | None:
    places = [i for i in range(text.first) if _ACCESS.match(text.lines[i]) and what in text.lines[i]]
    return text.rng.choice(places) if places else None


def _insert(text: Text, place: int, line: str) -> None:
    text.lines.insert(place, line)
    text.first, text.last = text.first + 1, text.last + 1


def _exchange(text: Text, place: int) -> None:
    """Put another of the kernel's pointers in the place of the one that the line has."""
    start = max(i for i in range(place) if text.lines[i].startswith("def "))
    pointers = re.findall(_POINTER, text.lines[start])
    text.lines[place] = re.sub(_POINTER, lambda _: text.rng.choice(pointers), text.lines[place], count=1)
