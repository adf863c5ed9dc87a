"""What a compiled graph enqueues, as plain data: every launch, event, allocation and free, in the order of the host.

The trace is what the verifier reasons about. Streams are numbers: 0 is the stream that the caller is on, aux streams
count from 1, and the stream on which a collective runs on its own has a number from `COLLECTIVES` up.
A tensor that moves from one name to another in place keeps its storage, so in-place reuse needs no step of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

CALLER = 0  # the caller's stream
COLLECTIVES = 1000  # first number of the streams that belong to collectives
HOST = -1  # what the host itself does, at once, and before all that it enqueues later

# Launches by which the wrapper prepares a kernel's arguments; no node of the graph stands for them.
PREPARATIONS = ("copy_if_misaligned", "tensor.item", "tensor.zero_", "tensor.isnan", "tensor.isinf")


@dataclass(frozen=True)
class Step:
    """Something the host enqueues while `stream` is current; `line` is where the wrapper's source says so."""

    stream: int
    line: int


@dataclass(frozen=True)
class Launch(Step):
    """A kernel, or an operator that may launch several, with the storages it reads and writes."""

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record(Step):
    """The event stands for all that `stream` was given so far. A second record replaces the first."""

    event: str


@dataclass(frozen=True)
class Wait(Step):
    """What `stream` is given from here on runs after what the event stands for."""

    event: str


@dataclass(frozen=True)
class Synchronize(Step):
    """The host waits for the event, or for all streams where there is none; all that is enqueued later runs after."""

    event: str | None = None


@dataclass(frozen=True)
class Allocate(Step):
    """The storage comes from the pool of `stream`, to which its memory goes back."""

    storage: str


@dataclass(frozen=True)
class Free(Step):
    """The last name of the storage is gone; its memory goes back to the pool of the stream that allocated it.

    If not `certain` it may go back here, or be used on and go back later.
    """

    storage: str
    certain: bool = True


@dataclass(frozen=True)
class Trace:
    """All steps in the order in which the host enqueues them. The caller allocated `inputs` on its own stream."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def stream_name(stream: int) -> str:
    """How messages call a stream."""
    if stream in (CALLER, HOST):
        return "the caller's stream" if stream == CALLER else "the host"
    return f"stream{stream}" if stream < COLLECTIVES else f"the stream of collective {stream - COLLECTIVES + 1}"


def launch_order(trace: Trace) -> dict[int, list[str]]:
    """Per stream, what it is given: "launch NAME", "record 3" and "wait 3" (event3) in order.

    Launches that only prepare arguments are left out: whether they occur is decided after planning.
    """
    order: dict[int, list[str]] = {}
    for step in trace.steps:
        if isinstance(step, Launch) and step.name not in PREPARATIONS:
            order.setdefault(step.stream, []).append(f"launch {step.name}")
        elif isinstance(step, Record | Wait):
            verb = "record" if isinstance(step, Record) else "wait"
            order.setdefault(step.stream, []).append(f"{verb} {step.event.removeprefix('event')}")
    return order
