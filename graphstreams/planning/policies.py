"""Choose the plan of a graph on modelled times, by the first search policy that is for such a graph.

A search policy is a function in a file of its own and a line in POLICIES.
"""

from __future__ import annotations

from collections.abc import Callable

from graphstreams.ir.plan import Plan
from graphstreams.planning.caller_stream import critical_path_on_caller, exchanged
from graphstreams.planning.exhaustive_search import exhaustive_search
from graphstreams.planning.local_search import local_search
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment

# From a space and a seed to the best assignment found, the same for the same seed; None if the policy is not for such a graph.
SearchPolicy = Callable[[SearchSpace, int], Assignment | None]


def best_list_schedule(space: SearchSpace, seed: int) -> Assignment:
    """Return the list schedule that is shortest on the simulator."""
    return space.best_initial()[0]


POLICIES: tuple[SearchPolicy, ...] = (
    exhaustive_search,  # of a tiny graph
    local_search,
    best_list_schedule,  # if there is nothing to change
)


def search_on_simulator(space: SearchSpace, seed: int = 0) -> Plan:
    """Return the best plan that a policy finds on the simulator of `space`; of equals the earlier one.

    Deterministic for a seed.
    """
    best = next(found for policy in POLICIES if (found := policy(space, seed)) is not None)
    named = critical_path_on_caller(space, best)
    # The caller's stream waits for no fork: with free kernels on it the plan may be the shorter one.
    candidates = [best] if list(named.stream) == list(best.stream) else [named, best]
    plan = min(map(space.plan, candidates), key=_rounded_us)
    if space.too_large_for_pairs:
        return plan
    # Nor does it join: with another one as the caller's, which no small change makes it, the plan may be shorter still.
    return min([plan, *exchanged(space, plan)], key=_rounded_us)


def _rounded_us(plan: Plan) -> float:
    return round(plan.streamed_us, 9)
