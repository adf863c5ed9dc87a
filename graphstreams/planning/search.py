"""Search for a better plan than the list schedules: on the simulator, or on measured times.

Small changes of a good plan, one after another: a kernel or a branch on another stream, two kernels that change places, a
launch that comes later. The simulator ranks many; where plans can be measured, it only proposes which to measure.
Every draw comes from one generator with a fixed seed, so the same graph and times give the same plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphstreams.graph.kernels import KernelGraph
from graphstreams.planning.assembly import assemble
from graphstreams.planning.list_schedule import list_schedules, varied_schedule
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.plan import Plan

Simulate = Callable[[Assignment], Timing]
Measure = Callable[[Plan], float]
Signature = tuple[tuple[int, ...], ...]

EVALUATIONS = 400  # simulations of a local search, for graphs of up to EVALUATED_KERNELS / EVALUATIONS kernels
EVALUATED_KERNELS = 40_000  # kernels simulated in all: larger graphs get fewer changes
COMPARED_KERNELS = 2_000  # kernels in all of the equally short plans whose events are counted
PROPOSALS = 24  # changes simulated for each that is measured
EQUAL_US = 1e-9  # sums that differ by less were added in another order
PARENTS = 3  # how many of the best measured plans are changed further


@dataclass(frozen=True)
class Tried:
    """A plan that was measured: what the simulator said of it, and what it took, in us."""

    plan: Plan
    measured_us: float


class Space:
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
        self.free = [kernel.id for kernel in graph.kernels if not kernel.exclusive]  # exclusive ones stay on stream 0
        self.simulate = simulate or (lambda assignment: timed(assignment, self.predecessors, us, event_us))
        self._plan_event_us = event_us if simulated_event_us is None else simulated_event_us
        self.starts = _distinct(list_schedules(graph, us, streams, event_us))

    def plan(self, assignment: Assignment) -> Plan:
        """The plan of an assignment, with the simulated times."""
        return assemble(self.graph, assignment, self.simulate(assignment), self.us, self.streams, self._plan_event_us)

    def changed(self, assignment: Assignment, dice: random.Random) -> Assignment:
        """The assignment after one to three random changes."""
        order, stream = list(assignment.order), list(assignment.stream)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            kernel = dice.choice(self.free)
            match dice.randrange(6):
                case 0 | 1:
                    stream[kernel] = dice.randrange(self.streams)
                case 2:
                    self._move_branch(kernel, stream, dice.randrange(self.streams))
                case 3:
                    other = dice.choice(self.free)
                    stream[kernel], stream[other] = stream[other], stream[kernel]
                case _:
                    self._move_launch(dice.choice(order), order, dice)
        return Assignment(order, _without_gaps(order, stream))

    def _move_branch(self, kernel: int, stream: list[int], target: int) -> None:
        """The kernel and the chain behind it on its stream go to another one: a branch splits, or two merge."""
        home = stream[kernel]
        if home == target:
            return
        pending = [kernel]
        while pending:
            current = pending.pop()
            if stream[current] == home and not self.graph.kernels[current].exclusive:
                stream[current] = target
                pending.extend(s for s in self.successors[current] if len(self.predecessors[s]) == 1)

    def _move_launch(self, kernel: int, order: list[int], dice: random.Random) -> None:
        """The kernel is launched sooner or later, between the last of its predecessors and the first of its successors."""
        place = {k: i for i, k in enumerate(order)}
        first = max((place[p] for p in self.predecessors[kernel]), default=-1) + 1
        last = min((place[s] for s in self.successors[kernel]), default=len(order)) - 1
        order.remove(kernel)
        order.insert(dice.randint(first, last), kernel)


def search_on_simulator(space: Space, seed: int = 0) -> Plan:
    """The best of the list schedules after a local search, of equals one with few waits. Deterministic for a seed."""
    makespans = [space.simulate(start).makespan for start in space.starts]
    shortest = min(makespans)
    equals = [a for a, makespan in zip(space.starts, makespans, strict=True) if makespan <= shortest + EQUAL_US]
    if space.streams > 1 and space.free:
        dice, current = random.Random(seed), equals[0]
        for _ in range(min(EVALUATIONS, EVALUATED_KERNELS // max(1, len(space.graph.kernels)))):
            candidate = space.changed(current, dice)
            makespan = space.simulate(candidate).makespan
            if makespan > shortest + EQUAL_US:
                continue
            # What is as short may have better ones behind it.
            current = candidate
            if makespan < shortest - EQUAL_US:
                shortest, equals = makespan, []
            equals.append(candidate)
    return _with_fewest_waits(space, _distinct(equals))


def _with_fewest_waits(space: Space, assignments: Sequence[Assignment]) -> Plan:
    """Of plans that are equally short; where they are many or large only those with the fewest edges between streams."""
    likely = sorted(assignments, key=lambda a: sum(a.stream[e.before] != a.stream[e.after] for e in space.graph.edges))
    most = max(1, min(len(likely), COMPARED_KERNELS // max(1, len(space.us))))
    plans = [space.plan(assignment) for assignment in likely[:most]]
    return min(plans, key=lambda plan: (sum(len(event.waits) for event in plan.events), plan.streams))


def exchanged(space: Space, plan: Plan) -> list[Plan]:
    """`plan` with the caller's stream exchanged for each of the aux streams in turn; none where exclusive kernels hold it.

    The caller's stream has CUDA's lowest priority. Kernels that are to get the GPU first have to be on another one.
    """
    if len(space.free) < len(space.us):
        return []
    order, stream = [place.kernel for place in plan.placements], plan.stream_of()
    found = []
    for other in range(1, plan.streams):
        number = {0: other, other: 0}
        streams = [number.get(stream[kernel], stream[kernel]) for kernel in range(len(stream))]
        found.append(space.plan(Assignment(order, streams)))
    return found


def search_by_measuring(space: Space, measure: Measure, count: int, seed: int = 0) -> list[Tried]:
    """`count` plans, fewer where there are no more, in the order in which they were measured.

    Half are list schedules, those for the given times first and then for varied times; half are changes of the best plans so
    far. `measure` returns the time of a plan in us, or infinity for one that cannot be played.
    """
    search = _Measuring(space, measure, random.Random(seed))
    for assignment in sorted(space.starts, key=search.predicted)[: max(1, count // 4)]:
        search.measure(assignment)
    if space.streams > 1 and space.free:
        search.fill(search.varied, (count + 1) // 2)
        search.fill(search.changed, count)
    return [result for _, result in search.tried[:count]]


class _Measuring:
    """A measured search while it runs."""

    def __init__(self, space: Space, measure: Measure, dice: random.Random) -> None:
        self._space, self._measure, self._dice = space, measure, dice
        self._seen: set[Signature] = set()
        self.tried: list[tuple[Assignment, Tried]] = []

    def predicted(self, assignment: Assignment) -> float:
        return self._space.simulate(assignment).makespan

    def measure(self, assignment: Assignment) -> None:
        self._seen.add(signature(assignment))
        plan = self._space.plan(assignment)
        self.tried.append((assignment, Tried(plan, self._measure(plan))))

    def fill(self, propose: Callable[[], Assignment], count: int) -> None:
        """Measure proposals until `count` plans are measured, or no new ones come."""
        while len(self.tried) < count:
            proposals = min(PROPOSALS, max(1, EVALUATED_KERNELS // max(1, len(self._space.us))))
            proposed = _distinct([propose() for _ in range(proposals)])
            fresh = [assignment for assignment in proposed if signature(assignment) not in self._seen]
            if not fresh:
                return
            fresh.sort(key=self.predicted)
            # Not always the simulator's first choice: it does not know what decides between good plans.
            self.measure(fresh[min(int(self._dice.expovariate(0.5)), len(fresh) - 1)])

    def varied(self) -> Assignment:
        space = self._space
        return varied_schedule(space.graph, space.us, space.streams, space.event_us, self._dice)

    def changed(self) -> Assignment:
        best = sorted(self.tried, key=lambda entry: entry[1].measured_us)[:PARENTS]
        parent, _ = best[min(int(self._dice.expovariate(1.5)), len(best) - 1)]
        return self._space.changed(parent, self._dice)


def signature(assignment: Assignment) -> Signature:
    """What each stream runs, in order; the same for two assignments that differ in the numbers of their streams only."""
    streams: dict[int, list[int]] = {}
    for kernel in assignment.order:
        streams.setdefault(assignment.stream[kernel], []).append(kernel)
    return tuple(sorted(tuple(own) for own in streams.values()))


def _distinct(assignments: Sequence[Assignment]) -> list[Assignment]:
    return list({signature(a): a for a in reversed(assignments)}.values())[::-1]


def _without_gaps(order: Sequence[int], stream: Sequence[int]) -> list[int]:
    """The same streams, numbered without gaps; the caller's stays the first."""
    used = sorted({stream[kernel] for kernel in order})
    number = {s: i for i, s in enumerate(used)}
    return [number[s] for s in stream]
