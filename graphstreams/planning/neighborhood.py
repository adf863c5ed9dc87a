"""The plans of one graph: those that a search starts from, the small changes that it makes, and what tells plans apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.list_schedule import list_schedules
from graphstreams.planning.paths import Assignment, Timing, timed

Simulate = Callable[[Assignment], Timing]
Signature = tuple[tuple[int, ...], ...]


class SearchSpace:
    """The plans of one graph on at most `streams` streams, and the simulator that tells their times."""

    def __init__(
        self,
        graph: KernelGraph,
        us: Sequence[float],
        streams: int,
        event_us: float,
        simulate: Simulate | None = None,
        simulated_event_us: float | None = None,
    ) -> None:
        """`us` has the us of each kernel; in list schedules a wait across streams adds `event_us`. Without `simulate`, to
        which a wait costs `simulated_event_us`, kernels side by side cost what they cost alone. Raises ValueError as
        `plan_kernels` does."""
        self.graph, self.us, self.streams, self.event_us = graph, us, streams, event_us
        self.predecessors, self.successors = graph.predecessors(), graph.successors()
        self.free = [kernel.id for kernel in graph.kernels if not kernel.on_caller]
        self.simulate = simulate or (lambda assignment: timed(assignment, self.predecessors, us, event_us))
        self._plan_event_us = event_us if simulated_event_us is None else simulated_event_us
        self.starts = distinct(list_schedules(graph, us, streams, event_us))

    def plan(self, assignment: Assignment) -> Plan:
        """The plan of an assignment, with the simulated times."""
        return assemble(self.graph, assignment, self.simulate(assignment), self.us, self.streams, self._plan_event_us)

    def changed(self, assignment: Assignment, rng: random.Random) -> Assignment:
        """The assignment after one to three random changes."""
        order, stream = list(assignment.order), list(assignment.stream)
        # Of the streams that nothing is on yet one is as good as another.
        targets = min(self.streams, 2 + max(stream))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kernel = rng.choice(self.free)
            match rng.randrange(6):
                case 0 | 1:
                    stream[kernel] = rng.randrange(targets)
                case 2:
                    self._move_branch(kernel, stream, rng.randrange(targets))
                case 3:
                    other = rng.choice(self.free)
                    stream[kernel], stream[other] = stream[other], stream[kernel]
                case _:
                    self._move_launch(rng.choice(order), order, rng)
        return Assignment(order, without_gaps(order, stream))

    def _move_branch(self, kernel: int, stream: list[int], target: int) -> None:
        """The kernel and the chain behind it on its stream go to another one: a branch splits, or two merge."""
        home = stream[kernel]
        if home == target:
            return
        pending = [kernel]
        while pending:
            current = pending.pop()
            if stream[current] == home and not self.graph.kernels[current].on_caller:
                stream[current] = target
                pending.extend(s for s in self.successors[current] if len(self.predecessors[s]) == 1)

    def _move_launch(self, kernel: int, order: list[int], rng: random.Random) -> None:
        """The kernel is launched sooner or later, between the last of its predecessors and the first of its successors."""
        place = {k: i for i, k in enumerate(order)}
        first = max((place[p] for p in self.predecessors[kernel]), default=-1) + 1
        last = min((place[s] for s in self.successors[kernel]), default=len(order)) - 1
        order.remove(kernel)
        order.insert(rng.randint(first, last), kernel)


def signature(assignment: Assignment) -> Signature:
    """What each stream runs, in order; the same for two assignments that differ in the numbers of their streams only."""
    streams: dict[int, list[int]] = {}
    for kernel in assignment.order:
        streams.setdefault(assignment.stream[kernel], []).append(kernel)
    return tuple(sorted(tuple(own) for own in streams.values()))


def distinct(assignments: Sequence[Assignment]) -> list[Assignment]:
    return list({signature(a): a for a in reversed(assignments)}.values())[::-1]


def without_gaps(order: Sequence[int], stream: Sequence[int]) -> list[int]:
    """The same streams, numbered without gaps; the caller's stays the first."""
    used = sorted({stream[kernel] for kernel in order})
    number = {s: i for i, s in enumerate(used)}
    return [number[s] for s in stream]
