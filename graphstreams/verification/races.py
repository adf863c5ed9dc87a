"""A race of a trace, and its text for somebody who writes models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphstreams.verification.trace import PREPARATIONS, LaunchStep, Trace, stream_name

UNORDERED = "unordered accesses"
FREED_EARLY = "freed too early"
AFTER_FREE = "used after free"
UNKNOWN_STORAGE = "never allocated"
UNFORKED = "not forked"
UNJOINED = "not joined"
UNRECORDED = "event never recorded"
OUTPUT_ON_AUX = "output in an aux stream's memory"
COLLECTIVE_ORDER = "collectives in another order than the serial code's"

_VERBS = {"read": "reads", "write": "writes", "free": "frees", "allocate": "allocates"}


@dataclass(frozen=True)
class AccessSite:
    """A place of the trace that touches a storage, or where streams meet. `action` is "read", "write", "free", ..."""

    line: int
    kernel: str
    stream: int
    storage: str
    action: str

    def __str__(self) -> str:
        who = f"{self.kernel} on {stream_name(self.stream)}" if self.kernel else stream_name(self.stream)
        return f"line {self.line}: {who} {_VERBS.get(self.action, self.action)} {self.storage}".rstrip()


@dataclass(frozen=True)
class Race:
    """Two sites that may happen in either order. `missing` says which order nothing enforces."""

    kind: str  # one of the constants above
    first: AccessSite
    second: AccessSite
    missing: str
    allocation: AccessSite | None = None  # of FREED_EARLY: what may get the memory

    def __str__(self) -> str:
        first, second = self.first, self.second
        if self.kind == FREED_EARLY and self.allocation is not None:
            return (
                f"{first}, which line {second.line} on {stream_name(second.stream)} frees; {self.missing}, "
                f"so the memory can be overwritten while it is in use (line {self.allocation.line} allocates "
                f"{self.allocation.storage} and may get it)"
            )
        if self.kind == UNORDERED:
            verb = _VERBS[second.action]
            return (
                f"{first}, which line {second.line}: {second.kernel} on {stream_name(second.stream)} {verb}; "
                f"{self.missing}, so it is left to chance which comes first"
            )
        return f"{first}; {self.missing}"


def racing_kernels(races: Sequence[Race], trace: Trace, launched: Mapping[int, Sequence[frozenset[int]]]) -> frozenset[int]:
    """Return the kernels that races of a trace are about.

    `launched` are the kernels that each launch of each stream computes, in order. A race between sites at which nothing is
    launched is about the launches that write its storage.
    """
    by_line: dict[int, frozenset[int]] = {}
    writers: dict[str, frozenset[int]] = {}
    for step, kernels in _launches(trace, launched):
        by_line[step.line] = by_line.get(step.line, frozenset()) | kernels
        writers.update({storage: writers.get(storage, frozenset()) | kernels for storage in step.writes})
    found: set[int] = set()
    for race in races:
        sites = (race.first, race.second)
        launches = [by_line.get(site.line) for site in sites if site.kernel] or [writers.get(site.storage) for site in sites]
        found.update(kernel for kernels in launches for kernel in kernels or ())
    return frozenset(found)


def lines_of_kernels(trace: Trace, launched: Mapping[int, Sequence[frozenset[int]]]) -> dict[int, tuple[int, ...]]:
    """Return the lines of the wrapper that launch each kernel, ascending. `launched` is as in `racing_kernels`."""
    found: dict[int, set[int]] = {}
    for step, kernels in _launches(trace, launched):
        for kernel in kernels:
            found.setdefault(kernel, set()).add(step.line)
    return {kernel: tuple(sorted(lines)) for kernel, lines in found.items()}


def _launches(trace: Trace, launched: Mapping[int, Sequence[frozenset[int]]]) -> Iterator[tuple[LaunchStep, frozenset[int]]]:
    """Yield each launch of a trace with the kernels that it computes."""
    left = {stream: iter(kernels) for stream, kernels in launched.items()}
    for step in trace.steps:
        if isinstance(step, LaunchStep) and step.name not in PREPARATIONS:
            yield step, next(left.get(step.stream, iter(())), frozenset())
