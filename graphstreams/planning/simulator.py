"""Simulate a plan on one GPU, where kernels that run side by side share block slots, SMs and memory bandwidth.

A discrete-event simulation with processor sharing. A launch alone has three parts: a head (launch, first loads), its blocks,
and a tail (its last blocks drain). Only blocks hold slots, in the order in which kernels come to have them, and share SMs and
bandwidth in proportion to what they ask for. If the aux streams have a priority, their kernels come before those of the
caller's stream. Head and tail take longer while other kernels are in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf

import sympy

from graphstreams.costs.footprint import Blocks, Footprint, Phase, footprints
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import Background, KernelGraph
from graphstreams.planning.paths import NO_BACKGROUND, Assignment, Simulate, Timing

# Fitted on one H200 to measured plans of 22 graphs, 2026-11-30: benchmarks/data/plans/README.md.
EVENT_US = 0.2  # what a wait across streams adds; the 1 us that `timed` is best with stands for some of the contention
CROWDING = 0.35  # each other kernel in flight makes head and tail of a kernel longer by this part
# A kernel with a part p of the slots that it fills alone runs at p ** PARTIAL: its blocks go in waves, and a started wave
# takes as long as a whole one.
PARTIAL = 1.5
BANDWIDTH = 0.9  # of the data sheet's, the most that all kernels together get; not fitted: these plans do not tell

_ROUNDING = 1e-9


def simulator(
    graph: KernelGraph,
    us: Sequence[float],
    device: Device,
    event_us: float | None = None,
    blocks: Mapping[int, Blocks] | None = None,
    value: Callable[[sympy.Expr], float] | None = None,
    waits: Iterable[tuple[int, int]] = (),
) -> Simulate:
    """Return a function that simulates assignments of the kernels of `graph` in a CUDA graph on `device`.

    `us` has the us of each kernel alone; a wait across streams adds `event_us` us, or EVENT_US. `blocks` and `value` are as
    `footprints` takes them. Of each pair of `waits` the second kernel waits for the first, beside what it depends on. Raises
    ValueError if the value of a dynamic size is missing.
    """
    predecessors, taken = graph.predecessors(), footprints(graph, us, device, blocks, value)
    for before, after in waits:
        predecessors[after] = sorted({*predecessors[after], before})
    wait_us, background = EVENT_US if event_us is None else event_us, graph.background()
    return lambda assignment: simulate(assignment, predecessors, us, taken, wait_us, 0.0, background)


def simulate(
    assignment: Assignment,
    predecessors: Sequence[Sequence[int]],
    us: Sequence[float],
    footprints: Sequence[Footprint],
    event_us: float = EVENT_US,
    fork_us: float | None = None,
    background: Background = NO_BACKGROUND,
) -> Timing:
    """Return when each kernel starts and ends, with contention. The fork is at 0 us, a wait across streams adds `event_us` us.

    `us` has the us of each kernel alone, `footprints` what each takes from the GPU, both by kernel id. The first kernel of an
    aux stream may start after `fork_us` us, by default `event_us`; in a CUDA graph it is 0, because there the first kernels of
    all streams wait for nothing. No kernel ends before `timed` says, with the default `fork_us`. With empty footprints the
    result is that of `timed`, exactly. What is in the `background` takes nothing either: a collective runs in few blocks, and
    mostly waits for other ranks.
    """
    fork = event_us if fork_us is None else fork_us
    return _Simulation(assignment, predecessors, us, footprints, event_us, fork, background).run()


class _Simulation:
    """One assignment while it is simulated."""

    def __init__(
        self,
        assignment: Assignment,
        predecessors: Sequence[Sequence[int]],
        us: Sequence[float],
        footprints: Sequence[Footprint],
        event_us: float,
        fork_us: float,
        background: Background,
    ) -> None:
        count = len(us)
        self._stream_of, self._event_us, self._groups = assignment.stream, event_us, background.groups
        self._predecessors = [background.awaited(kernel, before) for kernel, before in enumerate(predecessors)]
        self._done: dict[str, float] = {}  # process group -> when its stream has ended what it has so far
        self._us, self._footprints, self._urgent = us, footprints, assignment.priority < 0
        self._queues: dict[int, list[int]] = {}
        for kernel in reversed(assignment.order):
            self._queues.setdefault(assignment.stream[kernel], []).append(kernel)
        self._free = {stream: fork_us if stream else 0.0 for stream in self._queues}
        self._start, self._end = [0.0] * count, [-1.0] * count  # an end below 0 us: not yet
        self._held_up: dict[int, list[int]] = {}  # kernel -> streams whose next kernel waits for its end
        self._waiting: list[tuple[float, int]] = []  # kernels whose start is known, earliest first
        self._latent: list[int] = []  # kernels in head or tail
        self._placed: list[int] = []  # kernels whose blocks run or wait for slots, in the order in which they get them
        self._phases: list[list[Phase]] = [[] for _ in us]  # to come, last first
        self._in_flight: list[list[int]] = [[]] * count  # `_latent` or `_placed`; before a kernel starts, empty
        self._share, self._sms = [0.0] * count, [0.0] * count  # of slots and SMs, in the current phase
        self._left, self._since = [0.0] * count, [0.0] * count  # us of the current phase left at the time `since`
        self._rate, self._until = [1.0] * count, [0.0] * count

    def run(self) -> Timing:
        """Return the times of all kernels."""
        for stream in self._queues:
            self._release(stream)
        waiting, latent, placed, until = self._waiting, self._latent, self._placed, self._until
        while waiting or latent or placed:
            next_kernel = min((*latent, *placed), key=until.__getitem__, default=-1)
            now = until[next_kernel] if next_kernel >= 0 else inf
            if waiting and waiting[0][0] < now:
                now, next_kernel = heappop(waiting)
                self._begin(next_kernel, now)
            else:
                self._advance(next_kernel, now)
            self._share_out(now)
        main, aux = self._free.pop(0, 0.0), self._free.values()
        return Timing(self._start, self._end, max(main, max(aux, default=-self._event_us) + self._event_us))

    def _release(self, stream: int) -> None:
        """Queue the next kernel of `stream` with its start, or behind the first predecessor that has not ended."""
        if not self._queues[stream]:
            return
        kernel, start = self._queues[stream][-1], self._free[stream]
        for predecessor in self._predecessors[kernel]:
            ready = self._end[predecessor]
            if ready < 0:
                self._held_up.setdefault(predecessor, []).append(stream)
                return
            if self._stream_of[predecessor] != stream:
                ready += self._event_us
            if ready > start:
                start = ready
        heappush(self._waiting, (start, kernel))

    def _begin(self, kernel: int, now: float) -> None:
        if kernel in self._groups:
            group = self._groups[kernel]
            self._start[kernel] = now
            self._done[group] = max(now, self._done.get(group, 0.0)) + self._us[kernel]
            self._leave(kernel, now, self._done[group])
            return
        self._start[kernel], self._phases[kernel] = now, self._footprints[kernel].phases(self._us[kernel])
        self._advance(kernel, now)

    def _advance(self, kernel: int, now: float) -> None:
        """End the current phase of `kernel`, if there is one, and begin the next: head, blocks or tail."""
        if in_flight := self._in_flight[kernel]:
            in_flight.remove(kernel)
        if self._phases[kernel]:
            us, blocks, self._share[kernel], self._sms[kernel] = self._phases[kernel].pop()
            in_flight = self._in_flight[kernel] = self._placed if blocks else self._latent
            in_flight.append(kernel)
            if self._urgent and blocks:
                self._placed.sort(key=lambda placed: self._stream_of[placed] == 0)
            self._left[kernel], self._since[kernel], self._rate[kernel] = us, now, 1.0
            self._until[kernel] = now + us
            return
        self._leave(kernel, now, now)

    def _leave(self, kernel: int, now: float, end: float) -> None:
        """Take `kernel`, which ends at `end`, from its stream."""
        stream = self._stream_of[kernel]
        self._end[kernel], self._free[stream] = end, now
        self._queues[stream].pop()
        self._release(stream)
        for other in self._held_up.pop(kernel, ()):
            self._release(other)

    def _share_out(self, now: float) -> None:
        """Give every kernel in flight its rate until the next event."""
        latent, placed, rates = self._latent, self._placed, self._rate
        others = len(latent) + len(placed) - 1
        if latent:
            crowded = 1.0 / (1.0 + CROWDING * others)
            for kernel in latent:
                if rates[kernel] != crowded:
                    self._set_rate(kernel, crowded, now)
        if placed:
            for kernel, rate in zip(placed, self._rates_of_blocks() if others else (1.0,), strict=True):
                if rates[kernel] != rate:
                    self._set_rate(kernel, rate, now)

    def _rates_of_blocks(self) -> list[float]:
        """Return the rate of each kernel of `_placed`."""
        slots, asked, available, crowd, rates = 1.0, 0.0, BANDWIDTH, 0.0, []
        shares, sms, footprints = self._share, self._sms, self._footprints
        for kernel in self._placed:
            share, rate = shares[kernel], 1.0
            if share > slots + _ROUNDING:
                rate = (slots / share) ** PARTIAL
                slots = 0.0
            else:
                slots = slots - share if slots > share else 0.0
            if own := footprints[kernel].bandwidth * rate:
                asked += own
                if own > available:
                    available = own  # what one kernel was measured to get alone, all together get
            crowd += sms[kernel] * rate
            rates.append(rate)
        if asked <= available and crowd <= 1.0:
            return rates
        of_bandwidth, of_sms = available / max(available, asked), 1.0 / max(1.0, crowd)
        # What asks for none of a resource is not held up by those that do.
        return [
            rate * min(of_bandwidth if footprints[kernel].bandwidth else 1.0, of_sms if sms[kernel] else 1.0)
            for kernel, rate in zip(self._placed, rates, strict=True)
        ]

    def _set_rate(self, kernel: int, rate: float, now: float) -> None:
        self._left[kernel] = max(0.0, self._left[kernel] - self._rate[kernel] * (now - self._since[kernel]))
        self._since[kernel], self._rate[kernel] = now, rate
        self._until[kernel] = now + self._left[kernel] / rate if rate > 0 else inf
