"""Search for a better plan than the list schedules, on the simulator.

Small changes of a good plan, one after another: a kernel or a branch on another stream, two kernels that exchange their
streams, a launch that comes sooner or later on its stream. At the end streams that save little are merged with others. Every
draw comes from one generator with a fixed seed, so the same graph and times give the same plan. Of a tiny graph all plans are
tried instead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.exhaustive_search import every_assignment
from graphstreams.planning.neighborhood import SearchSpace, without_gaps
from graphstreams.planning.paths import Assignment, bottom_levels, critical_path

EVALUATIONS = 400  # simulations of a local search, for graphs of up to EVALUATED_KERNELS / EVALUATIONS kernels
EVALUATED_KERNELS = 40_000  # kernels simulated in all: larger graphs get fewer changes
TINY, ENUMERATED = 8, 1600  # of a graph of up to so many kernels all plans are tried, if there are no more than so many
EQUAL_US = 1e-9  # sums that differ by less were added in another order
WORTH = 0.005  # of the time that a plan on fewer streams takes: as much has each further stream to save


def search_on_simulator(space: SearchSpace, seed: int = 0) -> Plan:
    """The best of the list schedules after a local search, of a tiny graph the best of all plans; of equals the earlier one.

    Deterministic for a seed.

    Of equally short plans those with the fewest waits were tried too: where kernels share the GPU they were slower, up to 13 %,
    for few waits leave kernels behind others that the simulator thinks short enough.
    """
    tiny = space.streams > 1 and space.free and len(space.us) <= TINY
    every = every_assignment(space.graph, space.streams, ENUMERATED) if tiny else None
    best = _on_fewer_streams(space, _walked(space, seed)) if every is None else _of_all(space, [*space.starts, *every])
    named = critical_path_on_caller(space, best)
    # The caller's stream waits for no fork: with free kernels on it the plan may be the shorter one.
    candidates = [best] if list(named.stream) == list(best.stream) else [named, best]
    plan = min(map(space.plan, candidates), key=_rounded_us)
    if _too_large(space):
        return plan
    # Nor does it join: with another one as the caller's, which no small change makes it, the plan may be shorter still.
    return min([plan, *exchanged(space, plan)], key=_rounded_us)


def _walked(space: SearchSpace, seed: int) -> Assignment:
    """The shortest that a walk of random changes finds from the shortest list schedule."""
    makespans = [space.simulate(start).makespan for start in space.starts]
    shortest = min(makespans)
    best = next(a for a, makespan in zip(space.starts, makespans, strict=True) if makespan <= shortest + EQUAL_US)
    if space.streams == 1 or not space.free:
        return best
    current, rng = best, random.Random(seed)
    for _ in range(min(EVALUATIONS, EVALUATED_KERNELS // max(1, len(space.graph.kernels)))):
        candidate = space.changed(current, rng)
        makespan = space.simulate(candidate).makespan
        # What is as short may have better ones behind it.
        if makespan <= shortest + EQUAL_US:
            current = candidate
        if makespan < shortest - EQUAL_US:
            best, shortest = candidate, makespan
    return best


def _of_all(space: SearchSpace, assignments: Sequence[Assignment]) -> Assignment:
    """The shortest whose streams are each worth it; of equals the earlier one."""
    shortest: dict[int, tuple[float, Assignment]] = {}  # for each number of streams, which have to be there without gaps
    for assignment in assignments:
        used, makespan = 1 + max(assignment.stream), space.simulate(assignment).makespan
        if used not in shortest or makespan < shortest[used][0] - EQUAL_US:
            shortest[used] = makespan, assignment
    used = min(shortest, key=lambda count: (round(shortest[count][0], 9), count))
    while used > 2 and shortest[used - 1][0] <= shortest[used][0] * (1 + WORTH):
        used -= 1
    return shortest[used][1]


def _too_large(space: SearchSpace) -> bool:
    """Whether simulating a plan for each pair of streams takes longer than what it saves is worth."""
    return space.streams**2 * len(space.us) > EVALUATED_KERNELS


def _rounded_us(plan: Plan) -> float:
    return round(plan.streamed_us, 9)


def _on_fewer_streams(space: SearchSpace, best: Assignment) -> Assignment:
    """The assignment with streams merged, one after another, as long as what one saves is not worth it."""
    if _too_large(space):
        return best
    makespan = space.simulate(best).makespan
    while (used := 1 + max(best.stream, default=0)) > 2:
        merged = [_merged(space, best, home, target) for home in range(1, used) for target in range(home)]
        fewer = [assignment for assignment in merged if max(assignment.stream) < used - 1]
        shortest = min(fewer, key=lambda assignment: space.simulate(assignment).makespan, default=best)
        merged_us = space.simulate(shortest).makespan
        if not fewer or merged_us > makespan * (1 + WORTH):
            return best
        best, makespan = shortest, merged_us
    return best


def _merged(space: SearchSpace, given: Assignment, home: int, target: int) -> Assignment:
    stream = list(given.stream)
    for kernel in space.free:
        if stream[kernel] == home:
            stream[kernel] = target
    return Assignment(given.order, without_gaps(given.order, stream))


def critical_path_on_caller(space: SearchSpace, given: Assignment) -> Assignment:
    """The same streams with the one that has most of the critical path as the caller's, which is enqueued first.

    As it is where kernels have to be on the caller's stream.
    """
    if len(space.free) < len(space.us) or not given.stream:
        return given
    busy = [0.0] * (1 + max(given.stream))
    for kernel in critical_path(space.successors, bottom_levels(space.successors, space.us)):
        busy[given.stream[kernel]] += space.us[kernel]
    number = {busy.index(max(busy)): 0}
    for kernel in given.order:
        number.setdefault(given.stream[kernel], len(number))
    return Assignment(given.order, [number[stream] for stream in given.stream])


def exchanged(space: SearchSpace, plan: Plan) -> list[Plan]:
    """`plan` with the caller's stream exchanged for each of the aux streams in turn; none where kernels have to be there.

    The caller's stream has CUDA's lowest priority. Kernels that are to get the GPU first have to be on another one.
    """
    if len(space.free) < len(space.us):
        return []
    given, found = assignment_of(plan), []
    for other in range(1, plan.streams):
        number = {0: other, other: 0}
        found.append(space.plan(Assignment(given.order, [number.get(stream, stream) for stream in given.stream])))
    return found
