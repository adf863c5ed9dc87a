"""Searches for the plan that is fastest when it is measured; the simulator only proposes which plans to measure.

What a search finds grows with the number of plans that it has seen on the GPU. The simulator ranks random plans well, but good
ones hardly at all. So for each plan that is measured a few proposals are screened, if the graph is small enough for that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.list_schedule import varied_schedule
from graphstreams.planning.neighborhood import SIMULATED_KERNELS, SearchSpace, Signature, distinct, signature
from graphstreams.planning.paths import Assignment

Measure = Callable[[Plan], float]  # the time of a plan in us
Screen = Callable[[Sequence[Plan]], int]  # the index of the plan that is fastest in a short benchmark

PROPOSALS = 24  # changes simulated for each that is measured
PARENTS = 3  # how many of the best measured plans are changed further
SCREENED = 4  # plans screened for each that is measured


@dataclass(frozen=True)
class MeasuredCandidate:
    """A plan, the assignment that it was made of, and the time in us that was measured of it."""

    assignment: Assignment
    plan: Plan
    measured_us: float


def search_by_measuring(
    space: SearchSpace,
    measure: Measure,
    count: int,
    seed: int = 0,
    first: Sequence[Plan] = (),
    enough: Callable[[], bool] = lambda: False,
    screen: Screen | None = None,
) -> list[MeasuredCandidate]:
    """Measure `count` plans, at least one, and return them in the order in which they were measured.

    They are fewer if there are no more, or once `enough` returns True. Those of `first` come first. Then half are list
    schedules, those for the given times and then for varied times; half are changes of the best plans so far. If `screen` is
    given, it chooses each plan among up to SCREENED; the others are proposed again when no new ones come.
    """
    search = _MeasuredSearch(space, measure, count, random.Random(seed), enough, screen)
    listed = sorted(space.initial, key=space.makespan)[: max(1, count // 4)]
    for assignment in (*map(assignment_of, first), *listed):
        search.measure([assignment])
    if space.streams > 1 and space.free:
        varied = partial(varied_schedule, space.graph, space.us, space.streams, space.event_us, search.rng)
        search.fill(varied, (count + 1) // 2)
        search.fill(search.neighbor, count)
    return search.measured


@dataclass
class _MeasuredSearch:
    """A measured search while it runs."""

    space: SearchSpace
    measure_plan: Measure
    count: int
    rng: random.Random
    enough: Callable[[], bool]
    screen: Screen | None
    measured: list[MeasuredCandidate] = field(default_factory=list)
    seen: set[Signature] = field(default_factory=set)  # plans that were measured
    passed_over: set[Signature] = field(default_factory=set)  # plans that were screened, whether or not they were measured

    def _ended(self, count: int) -> bool:
        return len(self.measured) >= min(count, self.count) or (bool(self.measured) and self.enough())

    def measure(self, assignments: Sequence[Assignment]) -> None:
        """Measure the fastest of a few plans that have not been measured, unless the search has ended."""
        fresh = [assignment for assignment in distinct(assignments) if signature(assignment) not in self.seen]
        if not fresh or self._ended(self.count):
            return
        plans = [self.space.plan(assignment) for assignment in fresh]
        chosen = self.screen(plans) if self.screen and len(plans) > 1 else 0
        self.passed_over.update(map(signature, fresh))
        self.seen.add(signature(fresh[chosen]))
        self.measured.append(MeasuredCandidate(fresh[chosen], plans[chosen], self.measure_plan(plans[chosen])))

    def fill(self, propose: Callable[[], Assignment], count: int) -> None:
        """Measure proposals until `count` plans are measured, or no new ones come."""
        proposals = min(PROPOSALS, max(1, SIMULATED_KERNELS // max(1, len(self.space.us))))
        while not self._ended(count):
            proposed = distinct([propose() for _ in range(proposals)])
            left = [assignment for assignment in proposed if signature(assignment) not in self.seen]
            fresh = [assignment for assignment in left if signature(assignment) not in self.passed_over] or left
            if not fresh:
                return
            fresh.sort(key=self.space.makespan)
            # Not always the simulator's first choice, because it does not know what decides between good plans.
            drawn = min(SCREENED if self.screen else 1, len(fresh))
            self.measure([fresh.pop(min(int(self.rng.expovariate(0.5)), len(fresh) - 1)) for _ in range(drawn)])

    def neighbor(self) -> Assignment:
        parents = sorted(self.measured, key=lambda candidate: candidate.measured_us)[:PARENTS]
        parent = parents[min(int(self.rng.expovariate(1.5)), len(parents) - 1)]
        return self.space.random_neighbor(parent.assignment, self.rng)
