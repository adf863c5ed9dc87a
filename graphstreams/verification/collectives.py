"""Compare the order in which two bodies of a wrapper start collectives and wait for them.

Each rank runs either body, and in each its own plan. No rank waits for another for ever if all start the collectives of a group
in one order, and if nothing on one rank comes before a start that needs a later collective. So both bodies have the calls of
collectives on the caller's stream, in the same order, with the same arguments beside tensors, and with tensors of the same
sizes as far as the text tells these. What is compared is what the text says, by the numbers of the starts: no plan is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from graphstreams.verification.races import COLLECTIVE_ORDER, AccessSite, Race
from graphstreams.verification.trace import CALLER, FinishStep, LaunchStep, StartStep, Trace

Call = tuple[str, tuple[object, ...]]  # the operator, and what it is given beside tensors or which collectives it waits for


def misplaced_collectives(streamed: Trace, serial: Trace) -> list[Race]:
    """Return the first call of a collective in a streamed body that is not the serial body's, and those on aux streams."""
    races = [
        Race(COLLECTIVE_ORDER, site := _site(step), site, "collectives have to be called on the caller's stream")
        for step in _calls(streamed)
        if step.stream != CALLER
    ]
    for one, other in zip_longest(_calls(streamed), _calls(serial)):
        if one is None or other is None or _call(one) != _call(other) or _sizes_differ(one, other):
            races.append(_difference(one, other))
            break
    return races


def _calls(trace: Trace) -> Iterator[StartStep | FinishStep]:
    return (step for step in trace.steps if isinstance(step, StartStep | FinishStep))


def _call(step: StartStep | FinishStep) -> Call:
    return step.name, step.arguments if isinstance(step, StartStep) else step.collectives


def _sizes_differ(one: StartStep | FinishStep, other: StartStep | FinishStep) -> bool:
    """Return whether two collectives are known to be given tensors of other sizes."""
    if not (isinstance(one, StartStep) and isinstance(other, StartStep)):
        return False
    if len(one.sizes) != len(other.sizes):
        return True
    return any(
        len(first) != len(second) or any(None not in pair and len(set(pair)) > 1 for pair in zip(first, second, strict=True))
        for first, second in zip(one.sizes, other.sizes, strict=True)
        if first is not None and second is not None
    )


def _difference(streamed: StartStep | FinishStep | None, serial: StartStep | FinishStep | None) -> Race:
    site = _site(streamed) if streamed is not None else AccessSite(serial.line, "", CALLER, "", "returns")  # type: ignore[union-attr]
    there = f"the serial code has {_words(serial)} in its place" if serial is not None else "the serial code has no more"
    if streamed is None:
        there = f"it has no call of a collective where the serial code has {_words(serial)}"
    return Race(
        COLLECTIVE_ORDER, site, site, f"{there}, so a rank on streams and a serial one may wait for each other for ever"
    )


def _words(step: StartStep | FinishStep | None) -> str:
    if isinstance(step, FinishStep):
        which = ", ".join(str(number + 1) for number in step.collectives) or "none"
        return f"a wait for collective {which} (line {step.line})"
    assert step is not None
    return f"{step.name} of {', '.join(map(_size_text, step.sizes))} with {step.arguments} (line {step.line})"


def _size_text(sizes: tuple[int | None, ...] | None) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes) if sizes else "a tensor"


def _site(step: LaunchStep) -> AccessSite:
    return AccessSite(step.line, step.name, step.stream, "", "is called")
