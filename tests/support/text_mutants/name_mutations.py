"""Replace names by others of their kind, or bind them anew."""

from __future__ import annotations

import re

from tests.support.text_mutants.text import EVENT, HANDLE, LAUNCH, STREAM, TENSOR, Text

_REBOUND = (
    "{0} = {1}", "{0} = {1}", "{0} = {0}", "{0} = reinterpret_tensor({1}, (64, ), (1, ), 0)",
    "buf900 = {0}", "buf900 = reinterpret_tensor({0}, (64, ), (1, ), 0)",
    "{0} = empty_strided_cuda((64, ), (1, ), torch.float32)",
)  # fmt: skip
_MADE = re.compile(r"reinterpret_tensor\(|empty_strided_cuda\(")
_NUMBER = re.compile(r"(?<=[(, ])\d+(?=[,)])")


def rename_tensor(text: Text) -> None:
    _rename(text, TENSOR)


def rename_launch_operand(text: Text) -> None:
    _rename(text, TENSOR, LAUNCH)


def rename_stream(text: Text) -> None:
    _rename(text, STREAM)


def rename_event(text: Text) -> None:
    _rename(text, EVENT)


def rename_handle(text: Text) -> None:
    _rename(text, HANDLE)


def _rename(text: Text, pattern: re.Pattern[str], in_lines: re.Pattern[str] | None = None) -> None:
    place = text.pick(lambda line: pattern.search(line) and (in_lines is None or in_lines.search(line)))
    names = text.names(pattern)
    if place is not None:
        text.replace(place, pattern, lambda _: text.rng.choice(names))


def replace_out(text: Text) -> None:
    place = text.pick(lambda line: "out=" in line)
    names = text.names(TENSOR)
    if place is not None:
        text.replace(place, re.compile(r"(?<=out=)\w+"), lambda _: text.rng.choice(names))


def change_number(text: Text) -> None:
    """Give a view or a new buffer another size, stride or offset."""
    place = text.pick(lambda line: _MADE.search(line) and _NUMBER.search(line))
    if place is not None:
        others = _NUMBER.findall(text.lines[place])
        changes = (
            lambda n: n + 1,
            lambda n: max(n - 1, 0),
            lambda n: n // 2,
            lambda n: 2 * n,
            lambda n: int(text.rng.choice(others)),
        )
        text.replace(place, _NUMBER, lambda number: str(text.rng.choice(changes)(int(number))))


def swap_arguments(text: Text) -> None:
    place = text.pick(lambda line: len(TENSOR.findall(line)) > 1)
    if place is not None:
        found = list(TENSOR.finditer(text.lines[place]))
        one, two = sorted(text.rng.sample(found, 2), key=lambda match: match.start())
        line = text.lines[place]
        text.lines[place] = "".join((line[: one.start()], two[0], line[one.end() : two.start()], one[0], line[two.end() :]))


def rebind(text: Text) -> None:
    """Give a name another tensor, or its own again, or give its tensor to another name."""
    text.insert_form(_REBOUND)


def misalign(text: Text) -> None:
    names = text.names(TENSOR)
    one, two = text.rng.choice(names), text.rng.choice(names)
    text.insert(text.place(), f"{one} = copy_if_misaligned({text.rng.choice((one, two))})")
    text.lines.insert(0, "from torch._C._dynamo.guards import copy_if_misaligned")
    text.first, text.last = text.first + 1, text.last + 1


def rename_index(text: Text) -> None:
    """Take another element of a list."""
    place = text.pick(lambda line: re.search(r"= buf\d+\[\d\]", line))
    if place is not None:
        text.replace(place, re.compile(r"(?<=\[)\d(?=\])"), lambda _: text.rng.choice(("0", "1", "-1", "-2", "0:1")))


def rebind_stream(text: Text) -> None:
    """Bind the name of a stream, an event or a handle to another of its kind."""
    names = text.names(text.rng.choice((STREAM, EVENT, HANDLE)))
    if len(names) > 1:
        one, two = text.rng.sample(names, 2)
        text.insert(text.place(), f"{one} = {two}")


def renumber(text: Text) -> None:
    """Acquire other numbers of streams and events, or ask another device for them."""
    place = text.pick(lambda line: re.search(r"_acquire_streams\(|get_raw_stream\(|_DeviceGuard\(|set_device\(", line))
    if place is not None:
        number = re.compile(r"(?<=[(, ])\d+(?=[,)])")
        text.replace(place, number, lambda old: str(max(0, int(old) + text.rng.choice((-1, 1)))))


def change_collective(text: Text) -> None:
    """Give a collective another reduction, group or number of ranks, or another operator's name."""
    place = text.pick(lambda line: "_c10d_functional." in line)
    if place is not None:
        changes = {"'sum'": "'max'", "'0'": "'1'", "2, '": "4, '", "all_reduce_.": "broadcast_.", "[": "[1, "}
        found = [old for old in changes if old in text.lines[place]]
        old = text.rng.choice(found or ["wait_tensor."])
        text.lines[place] = text.lines[place].replace(old, changes.get(old, "all_reduce_."), 1)


def swap_collectives(text: Text) -> None:
    """Swap two lines that start collectives or wait for them, or let one be there twice."""
    places = [i for i in range(text.first, text.last) if "_c10d_functional." in text.lines[i]]
    if len(places) < 2:
        return
    one, two = sorted(text.rng.sample(places, 2))
    lines = text.lines
    if text.rng.random() < 0.3:
        text.insert(two, lines[one])
    else:
        lines[one], lines[two] = lines[two], lines[one]
