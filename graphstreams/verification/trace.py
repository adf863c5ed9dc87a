"""The trace of a wrapper: what one call enqueues, as plain data, in the order in which the host enqueues it.

Streams are numbers. 0 is the stream that the caller is on, aux streams count from 1, and the streams on which collectives run
count from `COLLECTIVES`. A tensor that moves from one name to another keeps its storage, so in-place reuse is no step.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphstreams.verification.elements import Elements

CALLER = 0  # the caller's stream
COLLECTIVES = 1000  # first number of the streams that belong to collectives
HOST = -1  # what the host itself does, at once, and before all that it enqueues later

# Launches by which the wrapper prepares a kernel's arguments. No node of the graph stands for them.
PREPARATIONS = ("copy_if_misaligned", "tensor.item", "tensor.zero_", "tensor.isnan", "tensor.isinf")


@dataclass(frozen=True)
class Step:
    """One thing that the host enqueues while `stream` is current, and the line of the wrapper that says so."""

    stream: int
    line: int


@dataclass(frozen=True)
class LaunchStep(Step):
    """A kernel, or an operator that may launch several, with the storages that it reads and writes.

    `parts` has those storages of which it only touches some elements, and no others.
    """

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    parts: tuple[tuple[str, Elements], ...] = ()


@dataclass(frozen=True)
class StartStep(LaunchStep):
    """The start of a collective: a launch on a stream of its own, behind all that `stream` has been given so far.

    `collective` is its number, from 0 in the order of the host, `arguments` what it is given beside tensors, and `sizes` are
    those of its tensors, each None if the source does not tell.
    """

    collective: int = 0
    arguments: tuple[object, ...] = ()
    sizes: tuple[tuple[int | None, ...] | None, ...] = ()

    @property
    def runs_on(self) -> int:
        """The stream that the collective runs on."""
        return COLLECTIVES + self.collective


@dataclass(frozen=True)
class FinishStep(LaunchStep):
    """A wait of `stream` for the ends of collectives, by their numbers. There are none if all were waited for before."""

    collectives: tuple[int, ...] = ()


@dataclass(frozen=True)
class RecordStep(Step):
    """An event that stands for all that `stream` has been given so far. A second record replaces the first."""

    event: str


@dataclass(frozen=True)
class WaitStep(Step):
    """A wait: what `stream` is given from here on runs after what the event stands for."""

    event: str


@dataclass(frozen=True)
class SynchronizeStep(Step):
    """A wait of the host for the event, or for all streams if there is none. What is enqueued later runs after it."""

    event: str | None = None


@dataclass(frozen=True)
class AllocateStep(Step):
    """A storage from the pool of `stream`. Its memory goes back to that pool."""

    storage: str


@dataclass(frozen=True)
class FreeStep(Step):
    """The end of a storage's last name. Its memory goes back to the pool of the stream that allocated it.

    If not `certain`, the memory may go back here, or stay in use and go back later.
    """

    storage: str
    certain: bool = True


@dataclass(frozen=True)
class Trace:
    """All steps in the order of the host. The caller allocated `inputs` on its own stream."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def stream_name(stream: int) -> str:
    """Return what messages call a stream."""
    if stream in (CALLER, HOST):
        return "the caller's stream" if stream == CALLER else "the host"
    return f"stream{stream}" if stream < COLLECTIVES else f"the stream of collective {stream - COLLECTIVES + 1}"


def launch_order(trace: Trace) -> dict[int, list[str]]:
    """Return what each stream is given, in order: "launch NAME", "record 3" and "wait 3" for the event "event3".

    Launches that only prepare arguments are left out, because what needs them is decided after planning.
    """
    order: dict[int, list[str]] = {}
    for step in trace.steps:
        if isinstance(step, LaunchStep) and step.name not in PREPARATIONS:
            order.setdefault(step.stream, []).append(f"launch {step.name}")
        elif isinstance(step, RecordStep | WaitStep):
            verb = "record" if isinstance(step, RecordStep) else "wait"
            order.setdefault(step.stream, []).append(f"{verb} {step.event.removeprefix('event')}")
    return order
