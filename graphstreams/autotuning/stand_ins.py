"""Puts a pause in place of each collective while plans are measured: no rank may run a collective by itself.

A collective leaves the stream it is started on, and runs beside it until its wait. So does the pause: a kernel of one thread,
on a stream of its own for each process group, that spins for as long as the collective is predicted to take. It takes next to
no room on the GPU, as the simulator assumes of a collective too. So it does not tell how long other kernels hold a collective
up, as they may with streams of a higher priority. Read in torch 2.15.0: `cuda/__init__.py` (_sleep).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Protocol

import torch

from graphstreams.autotuning.recorded_launches import RecordedLaunch
from graphstreams.autotuning.timing import device_us
from graphstreams.ir.kernels import KernelGraph
from graphstreams.runtime.driver import new_stream

CYCLES = 1_000_000  # of the pause that tells how long a cycle takes: about 500 us


class Pausing(Protocol):
    """A pause, or what a test has for one."""

    def start(self) -> None:
        """Begin it."""

    def wait(self) -> None:
        """Let the current stream wait for its end."""


def stand_ins(
    graph: KernelGraph, us: Mapping[int, float], new_pause: Callable[[str, float], Pausing] | None = None
) -> dict[int, RecordedLaunch]:
    """Return what is launched in place of each start of a collective, and of each wait, by kernel id; empty if there is none.

    `us` has the time of each start in us. `new_pause` makes a pause for a process group and a time, by default one on the
    current GPU.
    """
    make = new_pause or _pause
    pauses = {start: make(group, us[start]) for start, group in graph.background().groups.items()}
    found: dict[int, RecordedLaunch] = {start: pause.start for start, pause in pauses.items()}
    for wait, starts in _starts_of_waits(graph).items():
        found[wait] = _All([pauses[start].wait for start in starts])
    return found


def cuts_a_collective(graph: KernelGraph, kernels: range) -> bool:
    """Return whether some kernels of a graph, run apart, would start a collective without its wait, or wait for none."""
    pairs = ((start, wait) for wait, starts in _starts_of_waits(graph).items() for start in starts)
    return any((start in kernels) != (wait in kernels) for start, wait in pairs)


def _starts_of_waits(graph: KernelGraph) -> dict[int, list[int]]:
    """Return the starts that each wait is for, by kernel id."""
    background, predecessors = graph.background(), graph.predecessors()
    waits = [kernel.id for kernel in graph.kernels if kernel.collective == "wait"]
    awaited = {wait: background.awaited(wait, predecessors[wait]) for wait in waits}
    return {wait: [kernel for kernel in before if kernel in background.groups] for wait, before in awaited.items()}


class Pause:
    """A pause beside the current stream."""

    def __init__(self, stream: torch.cuda.Stream, us: float) -> None:
        """`stream` is where it runs, behind the pauses that are there already; `us` is how long."""
        self._stream, self._cycles = stream, max(1, round(us * cycles_per_us(torch.cuda.current_device())))
        self._done = torch.cuda.Event()

    def start(self) -> None:
        """Begin the pause once the current stream is here."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(self._cycles)
        self._done.record(self._stream)

    def wait(self) -> None:
        """Let the current stream wait for the end of the pause."""
        torch.cuda.current_stream().wait_event(self._done)


class _All:
    """Several launches as one."""

    def __init__(self, launches: Sequence[RecordedLaunch]) -> None:
        self._launches = launches

    def __call__(self) -> None:
        for launch in self._launches:
            launch()


def _pause(group: str, us: float) -> Pause:
    return Pause(_stream(torch.cuda.current_device(), group), us)


@cache
def _stream(device: int, group: str) -> torch.cuda.Stream:
    """Return the stream of the pauses of a process group, one for all graphs, because it is never destroyed."""
    return new_stream(torch.device("cuda", device))


@cache
def cycles_per_us(device: int) -> float:
    """Return how many cycles of a pause take one us on a GPU, whose clock may have been lower or higher at another time."""
    with torch.cuda.device(device):
        once = device_us(lambda: torch.cuda._sleep(CYCLES), 1)
        return CYCLES / min(once, device_us(lambda: torch.cuda._sleep(CYCLES), 1))
