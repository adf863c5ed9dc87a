"""Check the times of plans with collectives, worked out by hand: they run beside their own stream, in turns in a group."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from graphstreams.costs.footprint import Footprint
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.exhaustive_search import every_assignment
from graphstreams.planning.list_schedule import list_schedules, plan_kernels
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment, bottom_levels, occupied_us, serial_us, timed
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.simulator import simulate
from graphstreams.planning.synchronization import check_plan


def kernel(number: int, role: str = "", group: str = "0") -> Kernel:
    kind = {"start": "collective", "wait": "wait"}.get(role, "profile")
    return Kernel(number, f"k{number}", kind, collective=role, group=group if role == "start" else "")


def graph_of(roles: str, edges: list[tuple[int, int]], groups: str = "") -> KernelGraph:
    """Return a graph of kernels (k), starts (s) and waits (w), with edges of data and the order of starts and waits."""
    names = {"k": "", "s": "start", "w": "wait"}
    kernels = tuple(kernel(i, names[r], (groups or "0" * len(roles))[i]) for i, r in enumerate(roles))
    chain = itertools.pairwise([k.id for k in kernels if k.collective])
    order = [Edge(a, b, EdgeKind.ORDER) for a, b in chain]
    return KernelGraph("g", kernels, (*(Edge(a, b, EdgeKind.RAW) for a, b in edges), *order))


# A product is reduced, another one is independent of both: serial code runs it behind the wait.
BESIDE = graph_of("kswk", [(0, 1), (1, 2)])
BESIDE_US = (5.0, 10.0, 0.0, 6.0)


def times(graph: KernelGraph, us: tuple[float, ...], order: list[int], stream: list[int], event_us: float = 0.0) -> list[float]:
    """Return the start and the end of each kernel, and that of the graph, the same on the simulator and without contention."""
    assignment, predecessors, background = Assignment(order, stream), graph.predecessors(), graph.background()
    found = timed(assignment, predecessors, us, event_us, background)
    simulated = simulate(assignment, predecessors, us, [Footprint()] * len(us), event_us, background=background)
    assert (list(found.start), list(found.end), found.makespan) == (
        list(simulated.start), list(simulated.end), simulated.makespan,
    )  # fmt: skip
    return [*found.start, *found.end, found.makespan]


def test_what_runs_between_start_and_wait_costs_nothing() -> None:
    assert serial_us(BESIDE, BESIDE_US) == 21.0
    #                                                        starts              ends
    assert times(BESIDE, BESIDE_US, [0, 1, 2, 3], [0] * 4) == [0, 5, 15, 15, 5, 15, 15, 21, 21]
    assert times(BESIDE, BESIDE_US, [0, 1, 3, 2], [0] * 4) == [0, 5, 15, 5, 5, 15, 15, 11, 15]
    # On a stream of its own it starts at once; the fork and the join take an event each.
    assert times(BESIDE, BESIDE_US, [0, 1, 2, 3], [0, 0, 0, 1], 0.5) == [0, 5, 15, 0.5, 5, 15, 15, 6.5, 15]


def test_a_wait_behind_the_end_of_its_collective_waits_for_nothing() -> None:
    us = (5.0, 10.0, 0.0, 16.0)
    assert times(BESIDE, us, [0, 1, 3, 2], [0] * 4) == [0, 5, 21, 5, 5, 15, 21, 21, 21]
    assert occupied_us(BESIDE, us) == 21.0


def test_collectives_of_one_group_take_turns_and_those_of_two_do_not() -> None:
    edges = [(0, 2), (1, 3)]
    one, two = graph_of("ssww", edges), graph_of("ssww", edges, "01--")
    us = (10.0, 4.0, 0.0, 0.0)
    assert times(one, us, [0, 1, 2, 3], [0] * 4) == [0, 0, 10, 14, 10, 14, 10, 14, 14]
    # The order of the waits stays, though the second collective ends first.
    assert times(two, us, [0, 1, 2, 3], [0] * 4) == [0, 0, 10, 10, 10, 4, 10, 10, 10]


def test_an_order_needs_the_start_of_a_collective_and_not_its_end() -> None:
    graph = graph_of("ssww", [(0, 2), (1, 3)], "01--")
    assert graph.background().issued == {0: frozenset({1}), 1: frozenset({2})}
    # A path through the first start alone takes no time; through its wait it takes 10 us.
    assert bottom_levels(graph.successors(), (10.0, 4.0, 0.0, 0.0), graph.background()) == [10.0, 4.0, 0.0, 0.0]
    assert bottom_levels(graph.successors(), (1.0, 4.0, 0.0, 3.0), graph.background()) == [7.0, 7.0, 3.0, 3.0]


def test_the_planner_fills_the_time_of_a_collective() -> None:
    plan = plan_kernels(BESIDE, BESIDE_US, streams=2)
    assert (plan.serial_us, plan.streamed_us, plan.lower_bound_us, plan.critical_path_us) == (21.0, 15.0, 15.0, 15.0)
    found = search_on_simulator(SearchSpace(BESIDE, BESIDE_US, 3, 1.0))
    assert (found.streams, found.streamed_us) == (1, 15.0)
    assert [place.kernel for place in found.placements] in ([0, 1, 3, 2], [3, 0, 1, 2])
    check_plan(BESIDE, found)


def test_every_plan_keeps_the_collectives_in_order_on_the_callers_stream() -> None:
    """The order is the graph's in list schedules, in random neighbors and in what a search ends with."""
    graph = graph_of("kkswkkswkk", [(0, 2), (2, 3), (3, 4), (4, 6), (1, 5), (6, 7), (7, 8), (5, 9)])
    us, rng = (3.0, 4.0, 9.0, 0.0, 2.0, 7.0, 8.0, 0.0, 1.0, 5.0), random.Random(0)
    space = SearchSpace(graph, us, 3, 0.2)
    tried = [*list_schedules(graph, us, 3, 0.2)]
    for _ in range(200):
        tried.append(space.random_neighbor(rng.choice(tried), rng))
    for assignment in tried:
        assert [k for k in assignment.order if graph.kernels[k].collective] == [2, 3, 6, 7]
        assert {assignment.stream[k] for k in (2, 3, 6, 7)} == {0}
        check_plan(graph, space.plan(assignment))
    best = search_on_simulator(space)
    assert best.streamed_us >= best.lower_bound_us
    assert best.streamed_us < best.serial_us


def test_no_plan_of_a_small_graph_is_shorter_than_the_bound_says() -> None:
    graph = graph_of("kswks", [(0, 1), (1, 2)])
    graph = replace(graph, kernels=(*graph.kernels[:4], kernel(4, "start", "1")))
    us = (2.0, 6.0, 0.0, 5.0, 3.0)
    found = every_assignment(graph, 2, 10_000)
    assert found is not None
    shortest = min(timed(a, graph.predecessors(), us, 0.0, graph.background()).makespan for a in found)
    assert shortest == 8.0  # the second collective, which nothing waits for, does not count
    for assignment in found:
        timing = timed(assignment, graph.predecessors(), us, 0.0, graph.background())
        plan = assemble(graph, assignment, timing, us, 2, 0.0)
        assert plan.lower_bound_us <= plan.streamed_us


@pytest.mark.parametrize("seed", range(5))
def test_without_collectives_nothing_is_different(seed: int) -> None:
    rng = random.Random(seed)
    edges = [(a, b) for a, b in itertools.combinations(range(8), 2) if rng.random() < 0.3]
    graph, us = graph_of("k" * 8, edges), tuple(rng.uniform(1, 9) for _ in range(8))
    order, stream = list(range(8)), [rng.randrange(3) for _ in range(8)]
    plain = timed(Assignment(order, stream), graph.predecessors(), us, 0.3)
    assert timed(Assignment(order, stream), graph.predecessors(), us, 0.3, graph.background()) == plain
    assert serial_us(graph, us) == occupied_us(graph, us) == pytest.approx(sum(us))
