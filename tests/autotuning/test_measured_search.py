"""Check what measuring plans finds that no simulator knows, and how many it measures."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.autotuning.measured_search import PROPOSALS, SCREENED, search_by_measuring
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import timed
from tests.support.kernel_graphs import graph_of
from tests.support.search_spaces import assert_sound, every_row_set, large, rows, spaces


@settings(max_examples=25, deadline=None)
@given(spaces(), st.integers(1, 12), st.integers(0, 3))
def test_of_a_few_plans_the_fastest_is_measured(space, count, seed):
    """What is screened was not measured before, and of each group the one that is said to be the fastest is."""
    measured, groups = [], []

    def measure(plan):
        measured.append(plan)
        return float(len(measured))

    def fastest(plans):
        groups.append((len(measured), plans))
        return len(plans) - 1

    tried = search_by_measuring(space, measure, count, seed, screen=fastest)
    assert [t.plan for t in tried] == measured and len(measured) <= count
    assert len({rows(plan) for plan in measured}) == len(measured)
    passed_over = set()
    for before, plans in groups:
        again = [rows(plan) in passed_over for plan in plans]
        assert all(again) or not any(again)  # the slower ones of earlier groups come when there are no new ones
        passed_over |= {rows(plan) for plan in plans[:-1]}
        assert 2 <= len(plans) <= SCREENED
        assert len({rows(plan) for plan in plans}) == len(plans)
        assert not {rows(plan) for plan in plans} & {rows(plan) for plan in measured[:before]}
        assert measured[before] == plans[-1]
        for plan in plans:
            assert_sound(plan, space)


def test_the_list_schedules_for_the_given_times_are_all_measured():
    edges = [(0, 3), (1, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 7), (4, 8), (6, 9)]
    space = SearchSpace(graph_of(10, edges), [1.0, 7.0, 2.0, 5.0, 3.0, 4.0, 6.0, 2.0, 9.0, 1.0], 4, 0.5)
    alone = search_by_measuring(space, lambda plan: 1.0, 32)
    grouped = search_by_measuring(space, lambda plan: 1.0, 32, screen=lambda plans: 0)
    listed = min(len(space.initial), 32 // 4)
    assert listed > 2 and [t.plan for t in grouped[:listed]] == [t.plan for t in alone[:listed]]


@pytest.mark.parametrize("graph", [graph_of(3, [(0, 1), (1, 2)]), graph_of(3, [])], ids=["chain", "free"])
def test_what_was_passed_over_is_measured_when_there_are_no_new_plans(graph):
    space, every = SearchSpace(graph, [1.0] * 3, 2, 0.0), every_row_set(graph, 2)
    tried = [rows(t.plan) for t in search_by_measuring(space, lambda plan: plan.streamed_us, 500, screen=lambda plans: 0)]
    assert len(set(tried)) == len(tried) >= 2 * len(every) // 3


def test_screening_finds_faster_plans_for_as_many_measurements():
    """Of kernels that take other times than the simulator thinks, over some graphs and seeds."""
    alone = grouped = 0.0
    for seed in range(12):
        rng = random.Random(seed)
        edges = [(a, b) for b in range(14) for a in range(b) if rng.random() < 0.15]
        graph, us = graph_of(14, edges), [float(rng.randrange(2, 12)) for _ in range(14)]
        true = [time * math.exp(rng.gauss(0, 0.4)) for time in us]

        def measure(plan, graph=graph, true=true):
            return timed(assignment_of(plan), graph.predecessors(), true, 1.0).makespan

        def fastest(plans, measure=measure):
            return min(range(len(plans)), key=lambda i: measure(plans[i]))

        space = SearchSpace(graph, us, 3, 1.0)
        alone += min(t.measured_us for t in search_by_measuring(space, measure, 16, seed))
        grouped += min(t.measured_us for t in search_by_measuring(space, measure, 16, seed, screen=fastest))
    assert grouped < 0.99 * alone


@settings(max_examples=25, deadline=None)
@given(spaces(), st.integers(1, 12), st.integers(0, 3))
def test_no_more_plans_are_measured_than_asked_for_all_of_them_different_and_sound(space, count, seed):
    measured = []

    def measure(plan):
        measured.append(plan)
        return float(len(measured))

    tried = search_by_measuring(space, measure, count, seed)
    assert len(tried) <= count
    assert [(t.plan, t.measured_us) for t in tried] == [(plan, float(i)) for i, plan in enumerate(measured, 1)]
    assert len({rows(plan) for plan in measured}) == len(measured)
    for plan in measured:
        assert_sound(plan, space)


def test_the_first_plan_is_the_best_list_schedule():
    graph, us = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)]), [1.0, 2.0, 5.0, 1.0]
    (only,) = search_by_measuring(SearchSpace(graph, us, 3, 0.5), lambda plan: 1.0, 1)
    assert only.plan == plan_kernels(graph, us, 3, 0.5)


@pytest.mark.parametrize(
    ("graph", "streams", "plans"),
    [
        (graph_of(2, []), 2, 3),  # k0 k1; k1 k0; both side by side
        (graph_of(3, [(0, 1), (1, 2)]), 2, 4),  # a chain cut nowhere, or with one kernel on another stream
        (graph_of(3, [(0, 1), (1, 2)]), 3, 5),  # or each on its own
        (graph_of(3, []), 2, 12),  # 6 orders on one stream; 3 kernels that can stand alone, 2 orders of the others
    ],
)
def test_it_stops_when_there_are_no_more_plans(graph, streams, plans):
    """It stops when its proposals, which are random, are all known; the last few plans may not be among them."""
    space, every = SearchSpace(graph, [1.0] * len(graph.kernels), streams, 0.0), every_row_set(graph, streams)
    assert len(every) == plans
    tried = [rows(t.plan) for t in search_by_measuring(space, lambda plan: plan.streamed_us, 500)]
    assert len(set(tried)) == len(tried) >= 2 * plans // 3
    assert set(tried) <= every


def measured_with(graph, us, pair, by):
    """Return the clock of a GPU on which two kernels take `by` us longer at once, of which no simulator knows."""

    def measure(plan):
        place = {p.kernel: p for p in plan.placements}
        a, b = (place[k] for k in pair)
        return plan.streamed_us + by * (a.start_us < b.end_us and b.start_us < a.end_us)

    return measure


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("edges", "us", "pair", "best"),
    [
        # Four equal kernels: the pair has to share a stream.
        ([], [4.0, 4.0, 4.0, 4.0], (0, 1), 8.0),
        # A fork of three arms on two streams: of 1 + 8 + 1 us, if 3 and 5 us share a stream and are the pair, 8 is alone.
        ([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], [1.0, 8.0, 3.0, 5.0, 1.0], (2, 3), 10.0),
        # A chain of 4 + 4 us beside 6 us: k2 meets the second half if it starts at once, and the first if it is late.
        ([(0, 1)], [4.0, 4.0, 2.0], (1, 2), 8.0),
    ],
)
def test_it_finds_the_best_plan_where_two_kernels_must_not_meet(edges, us, pair, best, seed):
    graph = graph_of(len(us), edges)
    tried = search_by_measuring(SearchSpace(graph, us, 2, 0.0), measured_with(graph, us, pair, 20.0), 32, seed)
    assert min(t.measured_us for t in tried) == best


def test_it_gets_to_a_plan_that_the_simulator_ranks_low():
    """Each pair of kernels that is together and should not be, or the other way round, costs 10 us: k0 to k4 | k5 is best.

    The simulator says 20 us of it, and 8 us of the even spreads that cost most. Not every seed gets there.
    """
    space = SearchSpace(graph_of(6, []), [4.0] * 6, 3, 0.0)

    def measure(plan):
        stream = plan.stream_of()
        return 100.0 + 10.0 * sum((stream[a] == stream[b]) != (b < 5) for b in range(6) for a in range(b))

    tried = [t for seed in range(4) for t in search_by_measuring(space, measure, 60, seed)]
    best = min(tried, key=lambda t: t.measured_us)
    assert (best.measured_us, best.plan.streamed_us) == (100.0, 20.0)


def test_plans_that_cannot_be_replayed_are_counted_and_not_built_on():
    graph, us = graph_of(4, []), [4.0] * 4

    def measure(plan):
        return float("inf") if plan.streams == 2 else plan.streamed_us

    tried = search_by_measuring(SearchSpace(graph, us, 3, 0.0), measure, 24)
    assert len(tried) == 24
    assert min(tried, key=lambda t: t.measured_us).plan.streams == 3


def test_a_measured_plan_of_20000_kernels_costs_a_fixed_number_of_simulations():
    space, calls = large("layers")
    calls.clear()
    tried = search_by_measuring(space, lambda plan: plan.streamed_us, 2)
    assert len(tried) == 2
    assert len(calls) <= len(space.initial) + len(tried) + PROPOSALS
