"""Define the plans of one graph: those that a search starts from, random neighbors of a plan, and what tells plans apart."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.list_schedule import list_schedules
from graphstreams.planning.paths import Assignment, Simulate, timed, without_gaps

SIMULATED_KERNELS = 40_000  # in all simulations of a search: larger graphs get fewer simulations
EQUAL_US = 1e-9  # sums that differ by less were added in another order
STREAM_WORTH = 0.005  # share of the time on fewer streams that each further stream has to save

HIGH_PRIORITY = -2  # the CUDA priority that is tried for the aux streams

Signature = tuple[int, tuple[tuple[int, ...], ...]]


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
        """Make the list schedules of `graph`, in which a wait across streams adds `event_us`; `us` has the us of each kernel.

        A wait costs `simulated_event_us` to `simulate`. Without it kernels side by side cost what they cost alone. Raises
        ValueError as `plan_kernels` does.
        """
        self.graph, self.us, self.streams, self.event_us = graph, us, streams, event_us
        self.predecessors, self.successors = graph.predecessors(), graph.successors()
        self.free = [kernel.id for kernel in graph.kernels if kernel.bound_stream is None]
        self.pinned = graph.pinned_streams()
        self.background = graph.background()
        self.simulate = simulate or (lambda given: timed(given, self.predecessors, us, event_us, self.background))
        self._plan_event_us = event_us if simulated_event_us is None else simulated_event_us
        self.initial = distinct(list_schedules(graph, us, streams, event_us))

    @property
    def bound(self) -> bool:
        """Whether some kernels have to be on a certain stream, the caller's or another one."""
        return len(self.free) < len(self.us)

    @property
    def too_large_for_pairs(self) -> bool:
        """Whether simulating a plan for each pair of streams takes longer than what it saves is worth."""
        return self.streams**2 * len(self.us) > SIMULATED_KERNELS

    def makespan(self, assignment: Assignment) -> float:
        """Return the simulated us of an assignment."""
        return self.simulate(assignment).makespan

    def prioritized(self, priority: int) -> SearchSpace:
        """Return the space of the same plans with a CUDA priority for the aux streams."""
        space = copy.copy(self)
        space.initial = [replace(assignment, priority=priority) for assignment in self.initial]
        return space

    def best_initial(self) -> tuple[Assignment, float]:
        """Return the list schedule that is shortest on the simulator, of equals the first, and the us of the shortest."""
        makespans = [self.makespan(assignment) for assignment in self.initial]
        shortest = min(makespans)
        equal = (a for a, makespan in zip(self.initial, makespans, strict=True) if makespan <= shortest + EQUAL_US)
        return next(equal), shortest

    def plan(self, assignment: Assignment) -> Plan:
        """Return the plan of an assignment, with the simulated times."""
        return assemble(self.graph, assignment, self.simulate(assignment), self.us, self.streams, self._plan_event_us)

    def random_neighbor(self, assignment: Assignment, rng: random.Random) -> Assignment:
        """Return the assignment after one to three random changes."""
        order, stream = list(assignment.order), list(assignment.stream)
        # Of the streams that nothing is on yet one is as good as another.
        targets = min(self.streams, 1 + assignment.streams)
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
        return replace(assignment, order=order, stream=without_gaps(stream, self.pinned))

    def _move_branch(self, kernel: int, stream: list[int], target: int) -> None:
        """Move the kernel and the chain behind it on its stream to another one: a branch splits, or two merge."""
        home = stream[kernel]
        if home == target:
            return
        pending = [kernel]
        while pending:
            current = pending.pop()
            if stream[current] == home and self.graph.kernels[current].bound_stream is None:
                stream[current] = target
                pending.extend(s for s in self.successors[current] if len(self.predecessors[s]) == 1)

    def _move_launch(self, kernel: int, order: list[int], rng: random.Random) -> None:
        """Launch the kernel sooner or later, between the last of its predecessors and the first of its successors."""
        place = {k: i for i, k in enumerate(order)}
        first = max((place[p] for p in self.predecessors[kernel]), default=-1) + 1
        last = min((place[s] for s in self.successors[kernel]), default=len(order)) - 1
        order.remove(kernel)
        order.insert(rng.randint(first, last), kernel)


def signature(assignment: Assignment) -> Signature:
    """Return the priority and what each stream runs, in order.

    It is the same for assignments that differ only in the numbers of their streams, if all streams have the same priority.
    """
    streams: dict[int, list[int]] = {}
    for kernel in assignment.order:
        streams.setdefault(assignment.stream[kernel], []).append(kernel)
    rows = {stream: tuple(own) for stream, own in streams.items()}
    caller = [rows.pop(0, ())] if assignment.priority else []
    return assignment.priority, (*caller, *sorted(rows.values()))


def distinct(assignments: Sequence[Assignment]) -> list[Assignment]:
    """Return the first assignment of each signature, in the order of the last ones."""
    return list({signature(a): a for a in reversed(assignments)}.values())[::-1]
