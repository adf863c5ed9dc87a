"""Search locally for a better plan than the list schedules, on the simulator.

Small changes of a good plan, one after another: a kernel or a branch on another stream, two kernels that exchange their
streams, a launch that comes sooner or later on its stream. At the end streams that save little are merged with others. Every
draw comes from one generator with a fixed seed, so the same graph and times give the same plan.
"""

from __future__ import annotations

import random
from dataclasses import replace

from graphstreams.planning.neighborhood import EQUAL_US, SIMULATED_KERNELS, STREAM_WORTH, SearchSpace
from graphstreams.planning.paths import Assignment, without_gaps

SIMULATIONS = 400  # of one search, for graphs of up to SIMULATED_KERNELS / SIMULATIONS kernels


def local_search(space: SearchSpace, seed: int) -> Assignment | None:
    """Return the best assignment that random changes find from the best list schedule; None if there is nothing to change."""
    if space.streams == 1 or not space.free:
        return None
    return _on_fewer_streams(space, _walk(space, seed))


def _walk(space: SearchSpace, seed: int) -> Assignment:
    """Return the shortest assignment that a walk of random changes finds from the best list schedule."""
    best, shortest = space.best_initial()
    current, rng = best, random.Random(seed)
    for _ in range(min(SIMULATIONS, SIMULATED_KERNELS // max(1, len(space.us)))):
        neighbor = space.random_neighbor(current, rng)
        makespan = space.makespan(neighbor)
        # A neighbor that is as short may lead to better ones.
        if makespan <= shortest + EQUAL_US:
            current = neighbor
        if makespan < shortest - EQUAL_US:
            best, shortest = neighbor, makespan
    return best


def _on_fewer_streams(space: SearchSpace, best: Assignment) -> Assignment:
    """Return the assignment with streams merged, one after another, as long as what one saves is not worth it."""
    if space.too_large_for_pairs:
        return best
    makespan = space.makespan(best)
    while (used := best.used) > 2:
        streams = sorted(set(best.stream))
        merged = [_merged(space, best, home, target) for home in streams[1:] for target in streams if target < home]
        fewer = [assignment for assignment in merged if assignment.used < used]
        shortest = min(fewer, key=space.makespan, default=best)
        merged_us = space.makespan(shortest)
        if not fewer or merged_us > makespan * (1 + STREAM_WORTH):
            return best
        best, makespan = shortest, merged_us
    return best


def _merged(space: SearchSpace, given: Assignment, home: int, target: int) -> Assignment:
    stream = list(given.stream)
    for kernel in space.free:
        if stream[kernel] == home:
            stream[kernel] = target
    return replace(given, stream=without_gaps(stream, space.pinned))
