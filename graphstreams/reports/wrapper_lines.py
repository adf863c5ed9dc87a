"""Find the lines of a wrapper that belong to a kernel: its launches, its waits, and the event behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphstreams.ir.plan import Plan

_BODY = "def call_on_streams("


def wrapper_by_kernel(wrapper: str, lines: Mapping[int, Sequence[int]], plan: Plan) -> dict[int, str]:
    """Return the lines of each kernel, in the order of the wrapper, each with its number.

    `lines` has the numbers of the lines that launch each kernel, counted from 1. Lines of events are found by their text in
    the streamed body. Numbers outside the wrapper are left out.
    """
    text = wrapper.split("\n")
    numbers = {kernel: set(own) for kernel, own in lines.items()}
    start = next((number for number, line in enumerate(text, 1) if line.startswith(_BODY)), len(text))
    found: dict[str, int] = {}
    for number, line in enumerate(text[start:], start + 1):
        if line and not line[0].isspace():
            break
        found.setdefault(line.partition("#")[0].strip(), number)
    for step, kernel in _events(plan):
        if kernel in numbers and step in found:
            numbers[kernel].add(found[step])
    return {
        kernel: "\n".join(f"{number}: {text[number - 1].strip()}" for number in sorted(own) if 0 < number <= len(text))
        for kernel, own in numbers.items()
    }


def _events(plan: Plan) -> list[tuple[str, int]]:
    """Return the statements that record events and wait for them, each with its kernel."""
    found = []
    for event in plan.events:
        found.append((f"event{event.id}.record({_stream(event.stream)})", event.after))
        found += [(f"event{event.id}.wait({_stream(wait.stream)})", wait.kernel) for wait in event.waits]
    return found


def _stream(number: int) -> str:
    return f"stream{number}" if number else "default_stream"
