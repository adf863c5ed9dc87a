"""Choose which stream of an assignment is the caller's: it needs no fork and no join, and has CUDA's lowest priority."""

from __future__ import annotations

from dataclasses import replace

from graphstreams.ir.plan import Plan
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment, bottom_levels, critical_path, path_on_caller


def critical_path_on_caller(space: SearchSpace, given: Assignment) -> Assignment:
    """Return the same streams with the one that has most of the critical path as the caller's, which is enqueued first.

    Unchanged if some kernels have to be on a certain stream.
    """
    if space.bound or not given.stream:
        return given
    path = critical_path(space.successors, bottom_levels(space.successors, space.us, space.background))
    return path_on_caller(given, path, space.us)


def exchanged(space: SearchSpace, plan: Plan) -> list[Plan]:
    """Return `plan` with the caller's stream exchanged for each aux stream in turn; none if kernels have to be on a
    certain one.

    Kernels that are to get the GPU first have to be on another stream than the caller's.
    """
    if space.bound:
        return []
    given, swaps = assignment_of(plan), [{0: other, other: 0} for other in range(1, plan.streams)]
    return [space.plan(replace(given, stream=[swap.get(stream, stream) for stream in given.stream])) for swap in swaps]
