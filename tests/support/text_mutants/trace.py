"""Record what a wrapper did when Python ran it: the host's steps, with numbers for streams, events and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

CALLER = 0
FIRST_COLLECTIVE = 100_000  # streams from here on are those of process groups


class Launch(NamedTuple):
    """Work of a stream, with the storages that it reads and writes.

    `places` has storages of which it touches some places only, as a set of them: bit i is the place i.
    """

    stream: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    name: str
    places: tuple[tuple[int, int], ...] = ()


class HostAccess(NamedTuple):
    """The host reads memory that it can read itself, when it comes to it."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Record(NamedTuple):
    """An event stands for all that its stream was given so far."""

    stream: int
    event: int


class Wait(NamedTuple):
    """What the stream is given from here on runs after what the event stands for."""

    stream: int
    event: int


class Synchronize(NamedTuple):
    """The host goes on when all that the stream was given so far is done, or what the event stands for."""

    stream: int | None = None
    event: int | None = None


class Allocate(NamedTuple):
    """Memory comes from the pool of a stream."""

    stream: int
    storage: int


class Free(NamedTuple):
    """Memory goes back to the pool that it came from."""

    storage: int


class Enter(NamedTuple):
    """A call begins."""


class Leave(NamedTuple):
    """A call returns these storages, and leaves a stream current. If it was interrupted, it returns none."""

    outputs: tuple[int, ...]
    current: int = CALLER
    interrupted: bool = False


class Collective(NamedTuple):
    """The host starts a collective or waits for some, with what it gives beside tensors, or their numbers, and known sizes."""

    stream: int
    name: str
    arguments: tuple[Any, ...]
    sizes: tuple[tuple[int, ...] | None, ...]


Step = Launch | HostAccess | Record | Wait | Synchronize | Allocate | Free | Enter | Leave | Collective


@dataclass
class Recording:
    """The steps so far, and the next storage's number."""

    steps: list[Step] = field(default_factory=list)
    storages: int = 0
