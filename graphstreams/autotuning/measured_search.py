"""Search for the plan that is fastest when it is measured; the simulator only proposes which to measure.

What a search finds grows with the plans that it has seen on the GPU, and the simulator, good at random plans, hardly ranks good
ones. So of a few proposals the fastest in a brief try is the one that is measured, where the graph is small enough for that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.list_schedule import varied_schedule
from graphstreams.planning.local_search import EVALUATED_KERNELS
from graphstreams.planning.neighborhood import SearchSpace, Signature, distinct, signature
from graphstreams.planning.paths import Assignment

Measure = Callable[[Plan], float]
Fastest = Callable[[Sequence[Plan]], int]

PROPOSALS = 24  # changes simulated for each that is measured
PARENTS = 3  # how many of the best measured plans are changed further
SCREENED = 4  # plans that are tried briefly for each that is measured


@dataclass(frozen=True)
class MeasuredCandidate:
    """A plan that was measured: what the simulator said of it, and what it took, in us."""

    plan: Plan
    measured_us: float


def search_by_measuring(
    space: SearchSpace,
    measure: Measure,
    count: int,
    seed: int = 0,
    first: Sequence[Plan] = (),
    enough: Callable[[], bool] = lambda: False,
    fastest: Fastest | None = None,
) -> list[MeasuredCandidate]:
    """`count` plans, fewer where there are no more or `enough` says so, in the order in which they were measured.

    Those of `first` come first. Then half are list schedules, those for the given times and then for varied times; half are
    changes of the best plans so far. `measure` returns the time of a plan in us. At least one plan is measured. Where `fastest`
    is given, it says after a brief try which of at most BRIEFLY plans is the fastest; the others come when no new ones do.
    """
    search = _Measuring(space, measure, random.Random(seed), count, enough, fastest)
    listed = sorted(space.starts, key=search.predicted)[: max(1, count // 4)]
    for assignment in (*map(assignment_of, first), *listed):
        search.measure([assignment])
    if space.streams > 1 and space.free:
        search.fill(search.varied, (count + 1) // 2)
        search.fill(search.changed, count)
    return [result for _, result in search.tried]


class _Measuring:
    """A measured search while it runs."""

    def __init__(
        self,
        space: SearchSpace,
        measure: Measure,
        rng: random.Random,
        count: int,
        enough: Callable[[], bool],
        fastest: Fastest | None,
    ) -> None:
        self._space, self._measure, self._dice, self._count, self._enough = space, measure, rng, count, enough
        self._fastest = fastest or (lambda plans: 0)
        self._proposals = min(PROPOSALS, max(1, EVALUATED_KERNELS // max(1, len(space.us))))
        self._drawn = min(SCREENED, self._proposals) if fastest else 1
        self._seen: set[Signature] = set()  # plans that were measured
        self._passed_over: set[Signature] = set()  # plans that were drawn, most of them beside the one that was measured
        self.tried: list[tuple[Assignment, MeasuredCandidate]] = []
        self._parents: list[Assignment] = []

    def predicted(self, assignment: Assignment) -> float:
        return self._space.simulate(assignment).makespan

    def _ended(self, count: int) -> bool:
        return len(self.tried) >= min(count, self._count) or (bool(self.tried) and self._enough())

    def measure(self, assignments: Sequence[Assignment]) -> None:
        """Measure the fastest of a few plans, of those that were not measured before, unless the search has ended."""
        fresh = [assignment for assignment in distinct(assignments) if signature(assignment) not in self._seen]
        if not fresh or self._ended(self._count):
            return
        plans = [self._space.plan(assignment) for assignment in fresh]
        chosen = self._fastest(plans) if len(plans) > 1 else 0
        plan, assignment = plans[chosen], fresh[chosen]
        self._passed_over.update(map(signature, fresh))
        self._seen.add(signature(assignment))
        self.tried.append((assignment, MeasuredCandidate(plan, self._measure(plan))))
        self._parents = self._best()

    def fill(self, propose: Callable[[], Assignment], count: int) -> None:
        """Measure proposals until `count` plans are measured, or no new ones come."""
        while not self._ended(count):
            proposed = distinct([propose() for _ in range(self._proposals)])
            left = [assignment for assignment in proposed if signature(assignment) not in self._seen]
            fresh = [assignment for assignment in left if signature(assignment) not in self._passed_over] or left
            if not fresh:
                return
            fresh.sort(key=self.predicted)
            # Not always the simulator's first choice: it does not know what decides between good plans.
            self.measure([self._draw(fresh) for _ in range(min(self._drawn, len(fresh)))])

    def _draw(self, ranked: list[Assignment]) -> Assignment:
        return ranked.pop(min(int(self._dice.expovariate(0.5)), len(ranked) - 1))

    def varied(self) -> Assignment:
        space = self._space
        return varied_schedule(space.graph, space.us, space.streams, space.event_us, self._dice)

    def changed(self) -> Assignment:
        parent = self._parents[min(int(self._dice.expovariate(1.5)), len(self._parents) - 1)]
        return self._space.changed(parent, self._dice)

    def _best(self) -> list[Assignment]:
        """The plans to change, the fastest first."""
        return [assignment for assignment, _ in sorted(self.tried, key=lambda entry: entry[1].measured_us)[:PARENTS]]
