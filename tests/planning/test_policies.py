"""Check that the search on the simulator finds short plans on few streams, and never worse ones than the list schedules."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.autotuning.measured_search import search_by_measuring
from graphstreams.planning import exhaustive_search, local_search, policies
from graphstreams.planning.exhaustive_search import every_assignment
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.neighborhood import SIMULATED_KERNELS, STREAM_WORTH, SearchSpace
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.synchronization import check_plan
from tests.support.kernel_graphs import graph_of
from tests.support.search_spaces import assert_sound, end_of, every_row_set, large, rows, spaces


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 3))
def test_the_simulators_search_is_never_worse_than_the_best_list_schedule(space, seed):
    plan = search_on_simulator(space, seed)
    assert_sound(plan, space)
    assert plan.streamed_us <= plan_kernels(space.graph, space.us, space.streams, space.event_us).streamed_us + 1e-9


def test_the_first_policy_that_answers_decides(monkeypatch):
    space = SearchSpace(graph_of(4, []), [1.0] * 4, 2, 0.0)
    chosen = Assignment([3, 2, 1, 0], [0, 0, 0, 0])
    own = (lambda space, seed: None, lambda space, seed: chosen, local_search.local_search)
    monkeypatch.setattr(policies, "POLICIES", own)
    assert [place.kernel for place in search_on_simulator(space).placements] == [3, 2, 1, 0]


def test_a_further_stream_has_to_be_worth_it():
    """Beside 100 us on the caller's stream two of 1 us fit on one other; two of 90 us need two."""
    graph = graph_of(3, [])
    assert search_on_simulator(SearchSpace(graph, [100.0, 1.0, 1.0], 5, 0.0)).streams == 2
    assert search_on_simulator(SearchSpace(graph, [100.0, 90.0, 90.0], 5, 0.0)).streams == 3
    barely = search_on_simulator(SearchSpace(graph, [100.0, 60.0, 40.4], 5, 0.0))
    assert (barely.streams, barely.streamed_us) == (2, pytest.approx(100.4))


def test_the_simulators_plan_has_most_of_the_critical_path_on_the_callers_stream(monkeypatch):
    """Unless the plan is longer so: with 1 us for a fork 9 us on the caller's stream leave 10.5 us beside it."""
    monkeypatch.setattr(local_search, "SIMULATIONS", 0)
    monkeypatch.setattr(exhaustive_search, "MOST_KERNELS", 0)
    space = SearchSpace(graph_of(3, []), [1.0, 9.0, 1.0], 2, 0.0)
    space.initial = [Assignment([0, 1, 2], [0, 1, 0])]
    assert search_on_simulator(space).stream_of() == {0: 1, 1: 0, 2: 1}
    space = SearchSpace(graph_of(3, []), [5.0, 9.0, 4.5], 2, 1.0)
    space.initial = [Assignment([0, 1, 2], [0, 1, 0])]
    assert search_on_simulator(space).stream_of() == {0: 0, 1: 1, 2: 0}


@pytest.mark.parametrize(("on_two", "streams"), [(100.8, 2), (101.0, 3)])
def test_each_further_stream_has_to_be_worth_it(on_two, streams, monkeypatch):
    """Three streams take 100.4 us; from there 0.4 % more is not worth a stream, 0.6 % is."""
    monkeypatch.setattr(local_search, "SIMULATIONS", 0)
    monkeypatch.setattr(exhaustive_search, "MOST_KERNELS", 0)
    graph, makespans = graph_of(4, []), {1: 400.0, 2: on_two, 3: 100.4, 4: 100.0}

    def simulate(assignment):
        return Timing([0.0] * 4, [1.0] * 4, makespans[len(set(assignment.stream))])

    space = SearchSpace(graph, [100.0] * 4, 4, 0.0, simulate)
    space.initial = [Assignment([0, 1, 2, 3], [0, 1, 2, 3])]
    assert search_on_simulator(space).streams == streams


@settings(max_examples=100, deadline=None)
@given(spaces(most=5), st.integers(0, 3))
def test_the_simulators_search_finds_the_optimum_of_a_small_graph(space, seed):
    """Over all orders, all streams and both costs of events; with no more than two streams, for that is brute force."""
    if not space.us or any(k.exclusive for k in space.graph.kernels):
        return
    space = SearchSpace(space.graph, space.us, min(2, space.streams), space.event_us)
    lists = [list(p) for found in every_row_set(space.graph, space.streams) for p in itertools.permutations(found)]
    best = min(end_of(space.graph, space.us, each, space.event_us) for each in lists)
    assert search_on_simulator(space, seed).streamed_us == pytest.approx(best)


@pytest.mark.parametrize(
    ("us", "edges", "seed", "best"),
    [
        ([5.0, 3.0, 3.0, 0.0], [], 1, 6.0),
        ([0.0, 5.0, 0.0, 3.0, 4.0], [(2, 3), (2, 4)], 2, 7.0),
        ([0.0, 4.0, 5.0, 2.0, 0.0], [(1, 4), (0, 3)], 1, 6.0),
    ],
)
@pytest.mark.parametrize("tiny", [0, exhaustive_search.MOST_KERNELS])
def test_the_stream_that_a_fork_and_a_join_would_make_the_longest_is_the_callers(tiny, us, edges, seed, best, monkeypatch):
    """On an aux stream the longer part of these would wait 0.5 us for the fork, and the join 0.5 us for it."""
    monkeypatch.setattr(exhaustive_search, "MOST_KERNELS", tiny)
    assert search_on_simulator(SearchSpace(graph_of(len(us), edges), us, 2, 0.5), seed).streamed_us == best


@pytest.mark.parametrize(
    ("us", "edges", "event_us", "best"),
    [
        ([5.0, 3.0, 3.0, 5.0], [], 2.0, 10.0),
        ([3.0, 3.0, 3.0, 5.0], [], 2.0, 9.0),
        ([2.0, 5.0, 2.0, 5.0, 2.0], [(0, 4), (0, 2)], 2.0, 10.0),
        ([2.0, 1.0, 1.0, 2.0, 2.0], [(2, 4), (1, 3), (2, 3)], 2.0, 6.0),
    ],
)
def test_of_a_tiny_graph_all_plans_are_tried(us, edges, event_us, best):
    """Of the first, the two of 5 us on the caller's stream: from one of them there, three kernels change streams at once."""
    assert search_on_simulator(SearchSpace(graph_of(len(us), edges), us, 2, event_us)).streamed_us == best


def test_a_tiny_graph_of_few_kernels_or_few_plans_is_not_walked(monkeypatch):
    """Five kernels on five streams, and eight of which seven are a chain; seven without edges are walked."""

    def walked(space, seed):
        raise AssertionError("walked")

    monkeypatch.setattr(local_search, "_walk", walked)
    chain = graph_of(8, [(k, k + 1) for k in range(6)], exclusive=range(1, 6))
    for graph in (graph_of(5, []), chain):
        assert search_on_simulator(SearchSpace(graph, [1.0] * len(graph.kernels), 5, 0.0)).streams > 1
    with pytest.raises(AssertionError, match="walked"):
        search_on_simulator(SearchSpace(graph_of(7, []), [1.0] * 7, 5, 0.0))


@settings(max_examples=60, deadline=None)
@given(spaces(most=4))
def test_of_a_tiny_graph_each_stream_is_worth_it(space):
    """The shortest plan of as many streams, one stream less takes 0.5 % more, and no plan on more is worth them."""
    plan, shortest = search_on_simulator(space), {}
    for each in every_assignment(space.graph, space.streams, 10_000):
        used, makespan = 1 + max(each.stream, default=0), space.simulate(each).makespan
        shortest[used] = min(makespan, shortest.get(used, makespan))
    assert plan.streamed_us <= shortest.get(plan.streams, 0.0) + 1e-9
    assert plan.streams <= 2 or shortest[plan.streams - 1] > plan.streamed_us * (1 + STREAM_WORTH)
    # From one count to the next each may add as much as is not worth a stream.
    assert (
        plan.streamed_us
        <= min(shortest.values(), default=0.0) * (1 + STREAM_WORTH) ** max(0, len(shortest) - plan.streams) + 1e-9
    )


def test_a_stream_that_saves_nothing_is_left_out_whichever_kernels_move():
    """On three streams no less than 12 us either; merging two of the three takes longer."""
    graph, us = graph_of(4, [(0, 3), (1, 3)]), [8.0, 2.0, 7.0, 4.0]
    plan = search_on_simulator(SearchSpace(graph, us, 5, 0.5))
    assert (plan.streams, plan.streamed_us) == (2, 12.0)


@pytest.mark.parametrize("stream", [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]])
def test_of_equally_short_plans_of_a_tiny_graph_the_list_schedule_is_taken(stream):
    """Four kernels of 1 us on two streams: any two and two take 2 us."""
    space = SearchSpace(graph_of(4, []), [1.0] * 4, 2, 0.0)
    space.initial = [Assignment([0, 1, 2, 3], stream)]
    plan = search_on_simulator(space)
    assert rows(plan) == rows(space.plan(space.initial[0])) and plan.streamed_us == 2.0


def twelve_kernels(seed):
    rng = random.Random(seed)
    edges = [(a, b) for b in range(12) for a in range(b) if rng.random() < 0.15]
    return graph_of(12, edges), [float(rng.randrange(1, 9)) for _ in range(12)]


def test_a_walk_finds_what_no_list_schedule_is_and_its_seed_decides_which(monkeypatch):
    """Twelve kernels, for which the best list schedule with its streams exchanged takes 29 us."""
    space = SearchSpace(*twelve_kernels(22), 2, 1.0)
    found = [search_on_simulator(space, seed) for seed in range(3)]
    assert [plan.streamed_us for plan in found] == [28.0] * 3
    assert len({rows(plan) for plan in found}) > 1
    monkeypatch.setattr(local_search, "SIMULATIONS", 0)
    assert search_on_simulator(space).streamed_us == 29.0


@settings(max_examples=20, deadline=None)
@given(spaces())
def test_a_seed_decides_the_search(space):
    assert search_on_simulator(space, 7) == search_on_simulator(space, 7)
    measured = [search_by_measuring(space, lambda plan: plan.streamed_us, 9, seed=7) for _ in range(2)]
    assert measured[0] == measured[1]


def test_it_is_better_than_every_list_schedule_where_those_are_not_optimal():
    better = 0
    for seed in range(30):
        graph, us = twelve_kernels(seed)
        listed = plan_kernels(graph, us, 2, 1.0).streamed_us
        better += search_on_simulator(SearchSpace(graph, us, 2, 1.0)).streamed_us < listed - 0.5
    assert better


@pytest.mark.parametrize("graph", [graph_of(0, []), graph_of(3, [(0, 2)], exclusive={0, 1, 2})], ids=["empty", "exclusive"])
def test_a_graph_with_nothing_to_move_has_one_plan(graph):
    space = SearchSpace(graph, [1.0] * len(graph.kernels), 3, 0.0)
    plan = search_on_simulator(space)
    assert (plan.streams, plan.streamed_us) == (1, float(len(graph.kernels)))
    (only,) = search_by_measuring(space, lambda plan: 5.0, 10)
    assert (only.plan, only.measured_us) == (plan, 5.0)


def test_one_stream_stays_one_stream():
    space = SearchSpace(graph_of(3, []), [1.0] * 3, 1, 0.0)
    assert search_on_simulator(space).streams == 1
    assert {t.plan.streams for t in search_by_measuring(space, lambda plan: 1.0, 10)} == {1}


# --- a simulator of one's own


def slowed(graph, us, pair, by):
    """Return a simulator that adds `by` us to the end if both kernels of the pair run at once."""

    def simulate(assignment):
        timing = timed(assignment, graph.predecessors(), us, 0.0)
        a, b = pair
        together = timing.start[a] < timing.end[b] and timing.start[b] < timing.end[a]
        return Timing(timing.start, timing.end, timing.makespan + by * together)

    return simulate


def test_the_search_goes_by_the_simulator_that_it_is_given():
    """Two streams with two of four equal kernels each take 8 us; k0 and k1, and k2 and k3, on one each do not meet."""
    graph, us = graph_of(4, []), [4.0] * 4
    plan = search_on_simulator(SearchSpace(graph, us, 2, 0.0, slowed(graph, us, (0, 1), 3.0)))
    assert plan.streamed_us == 8.0
    first, second = ((p.start_us, p.end_us) for p in sorted(plan.placements, key=lambda p: p.kernel)[:2])
    assert first[1] <= second[0] or second[1] <= first[0]


# --- large graphs


@pytest.mark.parametrize("shape", ["chain", "layers"])
def test_a_graph_of_20000_kernels_is_searched_in_a_few_simulations(shape):
    space, calls = large(shape)
    calls.clear()
    plan = search_on_simulator(space)
    assert len(calls) <= len(space.initial) + 2 + SIMULATED_KERNELS // 20_000 <= 20
    check_plan(space.graph, plan)
