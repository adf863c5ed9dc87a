"""Make list schedules of kernels over a few streams, by the longest remaining path.

Of the kernels that may start, the one with the longest path still before it goes first, to the stream where it
starts earliest (Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969; Adam,
Chandy and Dickson, CACM 17(12), 1974). No single rule wins on every graph, so a few are tried and the best kept.
With free events, and no kernels that have to be on a certain stream, one of them is Graham's own: at most
2 - 1/streams times the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import product
from math import exp, inf
from random import Random

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.paths import (
    Assignment,
    bottom_levels,
    critical_path,
    inputs_ready,
    path_on_caller,
    timed,
    without_gaps,
)
from graphstreams.planning.synchronization import place_events

VARIATION = 0.35  # standard deviation of the logarithm of a time, in varied_schedule
MANY_KERNELS = 2_000  # graphs of more have list schedules only on two streams and on the most allowed


class _Problem:
    """What every rule makes a list schedule of."""

    def __init__(self, graph: KernelGraph, us: Sequence[float], event_us: float) -> None:
        self.us, self.event_us = us, event_us
        self.bound = {kernel.id: kernel.bound_stream for kernel in graph.kernels if kernel.bound_stream is not None}
        self.pinned = graph.pinned_streams()
        self.predecessors, self.successors = graph.predecessors(), graph.successors()
        self.background = graph.background()
        self.remaining = bottom_levels(self.successors, us, self.background)
        self.path = critical_path(self.successors, self.remaining)


@dataclass(frozen=True)
class _Rule:
    streams: int
    pin_path: bool  # the critical path stays on stream 0, except for kernels that are bound to another one
    look_ahead: bool  # hold a stream for the most urgent kernel, even before that may start
    follow: bool  # at equal starts stay on the stream of the predecessor that ends last, which saves an event


def plan_kernels(graph: KernelGraph, us: Sequence[float], streams: int = 3, event_us: float = 0.0) -> Plan:
    """Return a short plan of `graph` on at most `streams` streams, the caller's included; `us` has the us of each kernel.

    A wait across streams, the fork and the join included, adds `event_us` us. Raises ValueError if `streams` is
    below 1, `event_us` negative or not finite, or `us` not one finite non-negative time for each kernel.
    """
    candidates, predecessors = list_schedules(graph, us, streams, event_us), graph.predecessors()
    background = graph.background()
    timings = [timed(candidate, predecessors, us, event_us, background) for candidate in candidates]
    shortest = min(round(timing.makespan, 9) for timing in timings)
    tied = [pair for pair in zip(candidates, timings, strict=True) if round(pair[1].makespan, 9) == shortest]
    # Of equals the one with the fewest events, then with the fewest streams.
    best, timing = min(tied, key=lambda pair: (_event_count(graph, pair[0]), pair[0].streams)) if len(tied) > 1 else tied[0]
    return assemble(graph, best, timing, us, streams, event_us)


def list_schedules(graph: KernelGraph, us: Sequence[float], streams: int, event_us: float) -> list[Assignment]:
    """Return the assignment of every rule, on the fewest streams first. Arguments and `Raises` as for `plan_kernels`."""
    _check(graph, us, streams, event_us)
    problem = _Problem(graph, us, event_us)
    return [_greedy(problem, rule) for rule in _rules(streams, len(us), 1 + len(problem.pinned))]


def varied_schedule(graph: KernelGraph, us: Sequence[float], streams: int, event_us: float, rng: Random) -> Assignment:
    """Return the list schedule of a random rule for randomly varied times: as good as the others, and different.

    The factors on the times are log-normal, so that another path may be the critical one.
    """
    varied = [time * exp(rng.gauss(0, VARIATION)) for time in us]
    problem = _Problem(graph, varied, event_us * exp(rng.gauss(0, 1)))
    # A further stream is allowed every other time, because few graphs want many.
    fewest = 1 + len(problem.pinned)
    allowed = max(2, fewest)
    while allowed < streams and rng.random() < 0.5:
        allowed += 1
    return _greedy(problem, rng.choice(list(_rules(allowed, len(us), fewest))))


def _check(graph: KernelGraph, us: Sequence[float], streams: int, event_us: float) -> None:
    """Raise ValueError unless these can be planned with."""
    if len(us) != len(graph.kernels):
        raise ValueError(f"{len(graph.kernels)} kernels need as many times, got {len(us)}")
    for kernel, time in zip(graph.kernels, us, strict=True):
        if not 0 <= time < inf:
            raise ValueError(f"kernel {kernel.name!r} has the time {time} us; a finite time of at least 0 is needed")
    if (highest := max(graph.pinned_streams(), default=0)) >= max(1, streams):
        raise ValueError(f"a kernel is pinned to stream {highest}, and there are {streams}")
    if streams < 1:
        raise ValueError(f"streams is {streams}; it has to be 1 or more")
    if not 0 <= event_us < inf:
        raise ValueError(f"event_us is {event_us}; it has to be finite and 0 us or more")


def _rules(streams: int, kernels: int, fewest: int = 1) -> Iterator[_Rule]:
    """Yield the rules for up to `streams` streams, of which kernels are bound to `fewest`, the caller's included."""
    if fewest == 1:
        yield _Rule(1, pin_path=False, look_ahead=False, follow=False)
    for count in range(max(2, fewest), streams + 1):
        # Beyond a few, one stream more or less hardly matters. Powers of two keep the planning time in bounds.
        several = kernels <= MANY_KERNELS and (count <= 4 or count.bit_count() == 1)
        if several or count in (2, fewest, streams):
            for pin_path, look_ahead, follow in product((False, True), repeat=3):
                yield _Rule(count, pin_path, look_ahead, follow)


def _event_count(graph: KernelGraph, assignment: Assignment) -> int:
    return len(place_events(graph, assignment.order, dict(enumerate(assignment.stream))))


def _greedy(problem: _Problem, rule: _Rule) -> Assignment:
    """Return the assignment that `rule` gives.

    Its streams are numbered without gaps, but for those that kernels are bound to. Unless some have to be on a certain stream,
    the caller's is the one which has most of the critical path.
    """
    dispatch = _Dispatch(problem, rule)
    while (kernel := dispatch.next_kernel()) is not None:
        dispatch.place(kernel)
    found = Assignment(dispatch.order, dispatch.stream)
    if problem.pinned:
        return replace(found, stream=without_gaps(found.stream, problem.pinned))
    return path_on_caller(found, () if problem.bound else problem.path, problem.us)


class _Dispatch:
    """The state of a list schedule: from when on each stream is free, and which kernels are ready."""

    def __init__(self, problem: _Problem, rule: _Rule) -> None:
        self._problem, self._rule = problem, rule
        self._bound = {**(dict.fromkeys(problem.path, 0) if rule.pin_path else {}), **problem.bound}
        others = [stream for stream in range(1, rule.streams + len(problem.pinned)) if stream not in problem.pinned]
        # Those that kernels are bound to, and as many others as the rule has left.
        self._streams = sorted([0, *problem.pinned, *others[: rule.streams - 1 - len(problem.pinned)]])
        self._missing = [len(p) for p in problem.predecessors]
        self._ready: list[tuple[float, int]] = []  # may start now: most urgent first
        # May start once their predecessors have ended: earliest first.
        self._later = [(0.0, kernel) for kernel, missing in enumerate(self._missing) if not missing]
        self._free = {stream: problem.event_us if stream else 0.0 for stream in self._streams}
        self._end = [0.0] * len(problem.us)
        self._done: dict[str, float] = {}  # process group -> when its stream has ended what it has so far
        self.stream = [0] * len(problem.us)
        self.order: list[int] = []

    def next_kernel(self) -> int | None:
        """Return the kernel to place next, None at the end."""
        now = inf if self._rule.look_ahead else min(self._free.values())
        if not self._ready and self._later:
            now = max(now, self._later[0][0])
        while self._later and self._later[0][0] <= now:
            _, kernel = heappop(self._later)
            heappush(self._ready, (-self._problem.remaining[kernel], kernel))
        return heappop(self._ready)[1] if self._ready else None

    def place(self, kernel: int) -> None:
        """Put `kernel` on the stream on which it starts earliest."""
        background = self._problem.background
        predecessors = background.awaited(kernel, self._problem.predecessors[kernel])
        last = max(predecessors, key=self._end.__getitem__, default=0)
        home = self.stream[last] if self._rule.follow and predecessors else 0
        streams = [self._bound[kernel]] if kernel in self._bound else self._streams
        starts = self._starts(predecessors, streams)
        start, _, stream = min((starts[s], s != home, s) for s in streams)
        self.stream[kernel] = stream
        self._end[kernel] = self._free[stream] = start + self._problem.us[kernel]
        if kernel in background.groups:
            self._free[stream], group = start, background.groups[kernel]
            self._end[kernel] = self._done[group] = max(start, self._done.get(group, 0.0)) + self._problem.us[kernel]
        self.order.append(kernel)
        for successor in self._problem.successors[kernel]:
            self._missing[successor] -= 1
            if not self._missing[successor]:
                awaited = background.awaited(successor, self._problem.predecessors[successor])
                ready = max((self._end[p] for p in awaited), default=0.0)
                heappush(self._later, (ready, successor))

    def _starts(self, predecessors: Sequence[int], streams: Sequence[int]) -> dict[int, float]:
        event_us = self._problem.event_us
        after_wait = max((self._end[p] for p in predecessors), default=-event_us) + event_us
        starts = {s: max(self._free[s], after_wait) for s in streams}
        # Only on a stream on which a predecessor runs may a kernel start without waiting for the last of them.
        for stream in {self.stream[p] for p in predecessors}.intersection(streams) if event_us else ():
            inputs = inputs_ready(predecessors, stream, self.stream, self._end, event_us)
            starts[stream] = max(self._free[stream], inputs)
        return starts
