"""Drop, double, move and swap lines.

They keep the indentation of where they are put, so that one moved across a `with` belongs to another stream.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.text_mutants.text import LAUNCH, STREAM, SYNC, WORD, Text, indentation, is_del


def drop(text: Text) -> None:
    _drop(text, bool)


def drop_sync(text: Text) -> None:
    _drop(text, SYNC.match)


def drop_del(text: Text) -> None:
    _drop(text, is_del)


def _drop(text: Text, matching: Callable[[str], object]) -> None:
    place = text.pick(matching)
    if place is not None:
        text.take(place)


def duplicate(text: Text) -> None:
    place = text.pick()
    assert place is not None
    text.insert(place + 1 if text.rng.random() < 0.5 else text.place(), text.lines[place])


def move(text: Text) -> None:
    _move(text, bool)


def move_sync(text: Text) -> None:
    _move(text, SYNC.match)


def move_launch(text: Text) -> None:
    _move(text, LAUNCH.search)


def move_del(text: Text) -> None:
    _move(text, is_del)


def _move(text: Text, matching: Callable[[str], object]) -> None:
    place = text.pick(matching)
    if place is not None:
        line = text.take(place)
        # Most changes that still run are small.
        near = place + text.rng.choice((-3, -2, -1, 1, 2, 3)) if text.rng.random() < 0.5 else text.place()
        text.insert(min(max(near, text.first + 1), text.last), line)


def early_del(text: Text) -> None:
    """Move a `del` right behind the last line that has the name."""
    place = text.pick(is_del)
    if place is None:
        return
    name = text.lines[place].split()[1]
    uses = [i for i in range(text.first, place) if name in WORD.findall(text.lines[i])]
    if uses:
        text.insert(uses[-1] + 1, text.take(place))


def swap_lines(text: Text) -> None:
    one, two = text.pick(), text.pick()
    assert one is not None and two is not None
    lines = text.lines
    lines[one], lines[two] = indentation(lines[one]) + lines[two].strip(), indentation(lines[two]) + lines[one].strip()


def swap_neighbours(text: Text) -> None:
    place = text.pick()
    assert place is not None
    if place + 1 < text.last:
        lines = text.lines
        one, two = lines[place], lines[place + 1]
        lines[place], lines[place + 1] = indentation(one) + two.strip(), indentation(two) + one.strip()


def open_block(text: Text) -> None:
    """Let a block of a stream run on the current stream."""
    place = text.pick(lambda line: line.strip().startswith("with stream"))
    if place is None:
        return
    depth = indentation(text.lines[place])
    end = place + 1
    while end < text.last and len(indentation(text.lines[end])) > len(depth):
        text.lines[end] = text.lines[end].replace("    ", "", 1)
        end += 1
    del text.lines[place]
    text.last -= 1


def into_block(text: Text) -> None:
    """Give a line a block of its own."""
    place = text.pick()
    streams = text.names(STREAM)
    if place is not None and streams:
        line = text.lines[place]
        stream = text.rng.choice(streams)
        text.lines[place] = f"{indentation(line)}with {stream}:"
        text.lines.insert(place + 1, f"    {line}")
        text.last += 1
