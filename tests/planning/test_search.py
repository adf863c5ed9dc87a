"""Search for plans: legal changes, never worse than the list schedules, and what measuring finds that no simulator knows."""

import itertools
import math
import random
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.autotuning.measured_search import PROPOSALS, SCREENED, search_by_measuring
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning import local_search
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.exhaustive_search import every_assignment
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.local_search import EVALUATED_KERNELS, WORTH, critical_path_on_caller, exchanged, search_on_simulator
from graphstreams.planning.neighborhood import SearchSpace, signature
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.synchronization import check_plan


def graph_of(count, edges, exclusive=()):
    kernels = tuple(Kernel(i, f"k{i}", "profile", exclusive=i in exclusive) for i in range(count))
    return KernelGraph("g", kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))


@st.composite
def spaces(draw, most=9):
    """A random DAG with exclusive kernels, its times, a number of streams and a cost of events."""
    count = draw(st.integers(0, most))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    exclusive = draw(st.sets(st.sampled_from(range(count)), max_size=2)) if count else set()
    us = draw(st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count))
    return SearchSpace(graph_of(count, edges, exclusive), us, draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.5, 2.0])))


def assert_legal(graph, order, stream, streams):
    """The order agrees with the edges, exclusive kernels are on stream 0, and streams are numbered without gaps."""
    place = {kernel: i for i, kernel in enumerate(order)}
    assert sorted(order) == list(range(len(graph.kernels)))
    assert all(place[e.before] < place[e.after] for e in graph.edges)
    assert all(stream[k.id] == 0 for k in graph.kernels if k.exclusive)
    assert set(stream) == set(range(len(set(stream))))
    assert len(set(stream)) <= streams


def assert_sound(plan, space):
    check_plan(space.graph, plan)
    stream = [plan.stream_of()[k] for k in range(len(space.us))]
    assert_legal(space.graph, [p.kernel for p in plan.placements], stream, space.streams)
    assert plan.streams == max(1, len(set(stream)))


def rows(plan):
    """What each stream of a plan runs, in order, whatever its number."""
    streams = [[p.kernel for p in plan.placements if p.stream == s] for s in range(plan.streams)]
    return frozenset(tuple(row) for row in streams)


def every_row_set(graph, streams):
    """By brute force, what `rows` can be for a small graph: each order of each spread over the streams."""
    count, found = len(graph.kernels), set()
    for order in itertools.permutations(range(count)):
        if all(order.index(e.before) < order.index(e.after) for e in graph.edges):
            for spread in itertools.product(range(streams), repeat=count):
                lists = [tuple(k for k in order if spread[k] == s) for s in range(streams)]
                found.add(frozenset(row for row in lists if row))
    return found


def end_of(graph, us, lists, event_us=0.0):
    """By relaxation, when the last kernel ends if each list runs on a stream of its own; the first is the caller's."""
    stream = {k: s for s, row in enumerate(lists) for k in row}
    pairs = {(e.before, e.after) for e in graph.edges} | {pair for row in lists for pair in pairwise(row)}
    start = {k: event_us if s else 0.0 for k, s in stream.items()}
    for _ in us:
        for a, b in pairs:
            start[b] = max(start[b], start[a] + us[a] + (event_us if stream[a] != stream[b] else 0.0))
    return max(start[k] + us[k] + (event_us if s else 0.0) for k, s in stream.items())


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_every_change_is_legal_and_makes_a_sound_plan(space, seed):
    if not space.free:
        return
    rng = random.Random(seed)
    for start in space.starts:
        current = start
        for _ in range(10):
            current = space.changed(current, rng)
            assert_legal(space.graph, current.order, current.stream, space.streams)
        assert_sound(space.plan(current), space)


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_a_change_leaves_the_assignment_that_it_starts_from(space, seed):
    start = space.starts[0]
    before = list(start.order), list(start.stream)
    if space.free:
        space.changed(start, random.Random(seed))
    assert (list(start.order), list(start.stream)) == before


def test_a_branch_moves_without_its_exclusive_kernels():
    space = SearchSpace(graph_of(4, [(0, 1), (1, 2), (2, 3)], exclusive={1}), [1.0] * 4, 2, 0.0)
    rng, streams = random.Random(0), set()
    for _ in range(200):
        streams.add(tuple(space.changed(space.starts[0], rng).stream))
    assert {stream[1] for stream in streams} == {0}
    assert streams >= {(0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1)}


def test_a_change_opens_one_stream_at_most():
    """Moves to different streams that nothing is on would be one and the same plan."""
    space = SearchSpace(graph_of(6, []), [1.0] * 6, 5, 0.0)
    rng, used = random.Random(0), set()
    for _ in range(300):
        used.add(len(set(space.changed(Assignment(range(6), [0, 0, 0, 1, 1, 1]), rng).stream)))
    assert {2, 3} <= used <= {1, 2, 3}
    found, current = set(), space.starts[0]
    for _ in range(300):
        current = space.changed(current, rng)
        found.add(len(set(current.stream)))
    assert found == {1, 2, 3, 4, 5}


def test_changes_reach_every_plan_of_a_small_graph():
    graph = graph_of(4, [(0, 1), (1, 2)])
    space = SearchSpace(graph, [1.0] * 4, 2, 0.0)
    rng, current, found = random.Random(0), space.starts[0], set()
    for _ in range(2000):
        current = space.changed(current, rng)
        found.add(rows(space.plan(current)))
    assert found == every_row_set(graph, 2)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 3))
def test_the_simulators_search_is_never_worse_than_the_best_list_schedule(space, seed):
    plan = search_on_simulator(space, seed)
    assert_sound(plan, space)
    assert plan.streamed_us <= plan_kernels(space.graph, space.us, space.streams, space.event_us).streamed_us + 1e-9


def test_the_critical_path_is_on_the_callers_stream():
    """k1 is the long one; where a kernel has to be on the caller's stream the numbers stay."""
    given = Assignment([0, 1, 2], [0, 1, 0])
    assert critical_path_on_caller(SearchSpace(graph_of(3, []), [1.0, 9.0, 1.0], 2, 0.0), given).stream == [1, 0, 1]
    assert critical_path_on_caller(SearchSpace(graph_of(3, [], exclusive={0}), [1.0, 9.0, 1.0], 2, 0.0), given) == given
    assert critical_path_on_caller(SearchSpace(graph_of(0, []), [], 2, 0.0), Assignment([], [])) == Assignment([], [])


def test_a_further_stream_has_to_be_worth_it():
    """Beside 100 us on the caller's stream two of 1 us fit on one other; two of 90 us need two."""
    graph = graph_of(3, [])
    assert search_on_simulator(SearchSpace(graph, [100.0, 1.0, 1.0], 5, 0.0)).streams == 2
    assert search_on_simulator(SearchSpace(graph, [100.0, 90.0, 90.0], 5, 0.0)).streams == 3
    barely = search_on_simulator(SearchSpace(graph, [100.0, 60.0, 40.4], 5, 0.0))
    assert (barely.streams, barely.streamed_us) == (2, pytest.approx(100.4))


def test_the_simulators_plan_has_most_of_the_critical_path_on_the_callers_stream(monkeypatch):
    """Unless the plan is longer so: with 1 us for a fork 9 us on the caller's stream leave 10.5 us beside it."""
    monkeypatch.setattr(local_search, "EVALUATIONS", 0)
    monkeypatch.setattr(local_search, "TINY", 0)
    space = SearchSpace(graph_of(3, []), [1.0, 9.0, 1.0], 2, 0.0)
    space.starts = [Assignment([0, 1, 2], [0, 1, 0])]
    assert search_on_simulator(space).stream_of() == {0: 1, 1: 0, 2: 1}
    space = SearchSpace(graph_of(3, []), [5.0, 9.0, 4.5], 2, 1.0)
    space.starts = [Assignment([0, 1, 2], [0, 1, 0])]
    assert search_on_simulator(space).stream_of() == {0: 0, 1: 1, 2: 0}


@pytest.mark.parametrize(("on_two", "streams"), [(100.8, 2), (101.0, 3)])
def test_each_further_stream_has_to_be_worth_it(on_two, streams, monkeypatch):
    """Three streams take 100.4 us; from there 0.4 % more is not worth a stream, 0.6 % is."""
    monkeypatch.setattr(local_search, "EVALUATIONS", 0)
    monkeypatch.setattr(local_search, "TINY", 0)
    graph, makespans = graph_of(4, []), {1: 400.0, 2: on_two, 3: 100.4, 4: 100.0}

    def simulate(assignment):
        return Timing([0.0] * 4, [1.0] * 4, makespans[len(set(assignment.stream))])

    space = SearchSpace(graph, [100.0] * 4, 4, 0.0, simulate)
    space.starts = [Assignment([0, 1, 2, 3], [0, 1, 2, 3])]
    assert search_on_simulator(space).streams == streams


def test_exchanging_gives_the_callers_kernels_another_stream():
    graph = graph_of(4, [(0, 1), (1, 3), (0, 2)])
    space = SearchSpace(graph, [1.0] * 4, 3, 0.0)
    plan = space.plan(Assignment([0, 1, 2, 3], [0, 0, 1, 0]))
    (other,) = exchanged(space, plan)
    assert other.stream_of() == {0: 1, 1: 1, 2: 0, 3: 1}
    check_plan(graph, other)
    three = space.plan(Assignment([0, 1, 2, 3], [0, 1, 2, 0]))
    assert [each.stream_of() for each in exchanged(space, three)] == [{0: 1, 1: 0, 2: 2, 3: 1}, {0: 2, 1: 1, 2: 0, 3: 2}]


def test_exclusive_kernels_keep_the_callers_stream():
    space = SearchSpace(graph_of(2, [], exclusive={0}), [1.0] * 2, 2, 0.0)
    assert exchanged(space, space.plan(Assignment([0, 1], [0, 1]))) == []


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
@pytest.mark.parametrize("tiny", [0, local_search.TINY])
def test_the_stream_that_a_fork_and_a_join_would_make_the_longest_is_the_callers(tiny, us, edges, seed, best, monkeypatch):
    """On an aux stream the longer part of these would wait 0.5 us for the fork, and the join 0.5 us for it."""
    monkeypatch.setattr(local_search, "TINY", tiny)
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

    monkeypatch.setattr(local_search, "_walked", walked)
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
    assert plan.streams <= 2 or shortest[plan.streams - 1] > plan.streamed_us * (1 + WORTH)
    # From one count to the next each may add as much as is not worth a stream.
    assert plan.streamed_us <= min(shortest.values(), default=0.0) * (1 + WORTH) ** max(0, len(shortest) - plan.streams) + 1e-9


def test_a_stream_that_saves_nothing_is_left_out_whichever_kernels_move():
    """On three streams no less than 12 us either; merging two of the three takes longer."""
    graph, us = graph_of(4, [(0, 3), (1, 3)]), [8.0, 2.0, 7.0, 4.0]
    plan = search_on_simulator(SearchSpace(graph, us, 5, 0.5))
    assert (plan.streams, plan.streamed_us) == (2, 12.0)


@pytest.mark.parametrize("stream", [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]])
def test_of_equally_short_plans_of_a_tiny_graph_the_list_schedule_is_taken(stream):
    """Four kernels of 1 us on two streams: any two and two take 2 us."""
    space = SearchSpace(graph_of(4, []), [1.0] * 4, 2, 0.0)
    space.starts = [Assignment([0, 1, 2, 3], stream)]
    plan = search_on_simulator(space)
    assert rows(plan) == rows(space.plan(space.starts[0])) and plan.streamed_us == 2.0


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
    monkeypatch.setattr(local_search, "EVALUATIONS", 0)
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
    """A simulator that adds `by` us to the end where both kernels of the pair run at once."""

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


# --- trying briefly


@settings(max_examples=25, deadline=None)
@given(spaces(), st.integers(1, 12), st.integers(0, 3))
def test_of_a_few_plans_the_fastest_is_measured(space, count, seed):
    """What is tried briefly was not measured before, and of each group the one that is said to be the fastest is."""
    measured, groups = [], []

    def measure(plan):
        measured.append(plan)
        return float(len(measured))

    def fastest(plans):
        groups.append((len(measured), plans))
        return len(plans) - 1

    tried = search_by_measuring(space, measure, count, seed, fastest=fastest)
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
    grouped = search_by_measuring(space, lambda plan: 1.0, 32, fastest=lambda plans: 0)
    listed = min(len(space.starts), 32 // 4)
    assert listed > 2 and [t.plan for t in grouped[:listed]] == [t.plan for t in alone[:listed]]


@pytest.mark.parametrize("graph", [graph_of(3, [(0, 1), (1, 2)]), graph_of(3, [])], ids=["chain", "free"])
def test_what_was_passed_over_is_measured_when_there_are_no_new_plans(graph):
    space, every = SearchSpace(graph, [1.0] * 3, 2, 0.0), every_row_set(graph, 2)
    tried = [rows(t.plan) for t in search_by_measuring(space, lambda plan: plan.streamed_us, 500, fastest=lambda plans: 0)]
    assert len(set(tried)) == len(tried) >= 2 * len(every) // 3


def test_trying_briefly_finds_faster_plans_for_as_many_measurements():
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
        grouped += min(t.measured_us for t in search_by_measuring(space, measure, 16, seed, fastest=fastest))
    assert grouped < 0.99 * alone


# --- measuring


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
    """A GPU on which two kernels that run at once take `by` us longer, of which no simulator knows."""

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


def test_plans_that_cannot_be_played_are_counted_and_not_built_on():
    graph, us = graph_of(4, []), [4.0] * 4

    def measure(plan):
        return float("inf") if plan.streams == 2 else plan.streamed_us

    tried = search_by_measuring(SearchSpace(graph, us, 3, 0.0), measure, 24)
    assert len(tried) == 24
    assert min(tried, key=lambda t: t.measured_us).plan.streams == 3


def test_a_signature_says_what_each_stream_runs_and_not_its_number():
    space = SearchSpace(graph_of(3, []), [1.0] * 3, 2, 0.0)
    for assignment in space.starts:
        assert {row for row in signature(assignment) if row} == rows(space.plan(assignment))


# --- large graphs


@cache
def large(shape):
    """20,000 kernels, one behind another or twenty in a layer, and a list that grows with each simulation."""
    count, width, rng = 20_000, 20, random.Random(0)
    if shape == "chain":
        edges = list(pairwise(range(count)))
    else:
        edges = [(rng.randrange(max(0, i - 60), i - i % width), i) for i in range(width, count) for _ in range(2)]
    graph, us, calls = graph_of(count, edges), [rng.uniform(1, 10) for _ in range(count)], []
    predecessors = graph.predecessors()

    def simulate(assignment):
        calls.append(assignment)
        return timed(assignment, predecessors, us, 1.0)

    return SearchSpace(graph, us, 2, 1.0, simulate), calls


@pytest.mark.parametrize("shape", ["chain", "layers"])
def test_a_graph_of_20000_kernels_is_searched_in_a_few_simulations(shape):
    space, calls = large(shape)
    calls.clear()
    plan = search_on_simulator(space)
    assert len(calls) <= len(space.starts) + 2 + EVALUATED_KERNELS // 20_000 <= 20
    check_plan(space.graph, plan)


def test_a_measured_plan_of_20000_kernels_costs_a_fixed_number_of_simulations():
    space, calls = large("layers")
    calls.clear()
    tried = search_by_measuring(space, lambda plan: plan.streamed_us, 2)
    assert len(tried) == 2
    assert len(calls) <= len(space.starts) + len(tried) + PROPOSALS
