"""Check list schedules: they are legal, and no longer than what other rules give."""

import random
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.costs.profile import load_profile
from graphstreams.ir.kernels import EdgeKind
from graphstreams.planning import list_schedule
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.synchronization import check_plan
from tests.support.kernel_graphs import graph_of
from tests.support.paths import DSV32


@st.composite
def priced_graphs(draw, most=7):
    count = draw(st.integers(0, most))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    us = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    return graph_of(count, edges), [float(t) for t in us]


def optimum(graph, us, streams):
    """Return the shortest makespan with free events: every active schedule appends kernels at their earliest start."""
    predecessors = graph.predecessors()
    every = frozenset(range(len(us)))

    @cache
    def shortest(ends, free):
        done = dict(ends)
        if len(done) == len(us):
            return max(done.values(), default=0.0)
        found = []
        for kernel in every - done.keys():
            if all(p in done for p in predecessors[kernel]):
                ready = max((done[p] for p in predecessors[kernel]), default=0.0)
                for stream in {time: i for i, time in enumerate(free)}.values():
                    end = max(free[stream], ready) + us[kernel]
                    rest = sorted([*free[:stream], *free[stream + 1 :], end])
                    found.append(shortest(ends | {(kernel, end)}, tuple(rest)))
        return min(found)

    return shortest(frozenset(), (0.0,) * streams)


def assert_consistent(plan, graph, us):
    """Everything that a plan's times promise."""
    check_plan(graph, plan)
    placed = {p.kernel: p for p in plan.placements}
    for p in plan.placements:
        assert p.end_us == p.start_us + us[p.kernel]
        assert p.start_us >= (plan.event_us if p.stream else 0)
    for edge in graph.edges:
        before, after = placed[edge.before], placed[edge.after]
        assert after.start_us >= before.end_us + (plan.event_us if before.stream != after.stream else 0)
    for stream in range(plan.streams):
        row = [p for p in plan.placements if p.stream == stream]
        assert row or plan.streams == 1
        assert all(a.end_us <= b.start_us for a, b in pairwise(row))
    position = {p.kernel: i for i, p in enumerate(plan.placements)}
    assert all(position[e.before] < position[e.after] for e in graph.edges)
    assert all(a.start_us <= b.start_us for a, b in pairwise(plan.placements))
    ends = [p.end_us + (plan.event_us if p.stream else 0) for p in plan.placements]
    assert plan.streamed_us == max(ends, default=0)
    assert plan.lower_bound_us <= plan.streamed_us <= plan.serial_us + 1e-9


def test_an_empty_graph():
    plan = plan_kernels(graph_of(0, []), [], streams=3, event_us=1.0)
    assert (plan.streams, plan.placements, plan.events, plan.critical_path) == (1, (), (), ())
    assert (plan.serial_us, plan.streamed_us, plan.lower_bound_us, plan.critical_path_us) == (0, 0, 0, 0)


def test_a_chain_stays_on_the_callers_stream():
    graph, us = graph_of(3, [(0, 1), (1, 2)]), [1.0, 2.0, 3.0]
    plan = plan_kernels(graph, us)
    assert_consistent(plan, graph, us)
    assert (plan.streams, plan.events, plan.streamed_us, plan.critical_path) == (1, (), 6.0, (0, 1, 2))


def test_a_diamond_takes_its_longer_side():
    graph, us = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)]), [1.0, 2.0, 5.0, 1.0]
    plan = plan_kernels(graph, us)
    assert_consistent(plan, graph, us)
    assert plan.streamed_us == plan.lower_bound_us == 7.0
    assert plan.stream_of() == {0: 0, 1: 1, 2: 0, 3: 0}
    assert [(e.after, [w.kernel for w in e.waits]) for e in plan.events] == [(0, [1]), (1, [3])]


@pytest.mark.parametrize(("event_us", "streams", "expected"), [(1.5, 2, 7.0), (2.0, 2, 8.0), (3.0, 1, 9.0)])
def test_a_diamond_pays_for_its_events(event_us, streams, expected):
    """The short side, 2 us and two waits, hides behind 5 us up to 1.5 us a wait, and is not worth 3 us a wait."""
    graph, us = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)]), [1.0, 2.0, 5.0, 1.0]
    plan = plan_kernels(graph, us, event_us=event_us)
    assert_consistent(plan, graph, us)
    assert (plan.streams, plan.streamed_us) == (streams, expected)


@pytest.mark.parametrize(("streams", "expected"), [(1, 14.0), (2, 10.0), (3, 6.0), (4, 6.0)])
def test_a_fork_with_three_arms(streams, expected):
    graph, us = graph_of(5, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)]), [1.0, 4.0, 4.0, 4.0, 1.0]
    plan = plan_kernels(graph, us, streams=streams)
    assert_consistent(plan, graph, us)
    assert plan.streamed_us == expected
    assert plan.streams == min(streams, 3)


def test_the_fork_and_the_join_cost_an_event_each():
    graph, us = graph_of(2, []), [4.0, 3.0]
    plan = plan_kernels(graph, us, streams=2, event_us=1.0)
    assert_consistent(plan, graph, us)
    assert [(p.kernel, p.stream, p.start_us) for p in plan.placements] == [(0, 0, 0.0), (1, 1, 1.0)]
    assert plan.streamed_us == 5.0
    assert plan_kernels(graph, us, streams=2, event_us=2.0).streams == 1


def test_a_write_after_a_read_holds_across_streams():
    graph = graph_of(4, [(0, 1), (0, 2), (1, 3, EdgeKind.WAR)])
    us = [1.0, 2.0, 6.0, 4.0]
    plan = plan_kernels(graph, us, streams=2)
    assert_consistent(plan, graph, us)
    assert plan.streamed_us == 7.0


def test_an_exclusive_kernel_is_a_barrier_on_the_callers_stream():
    edges = [(0, 2, EdgeKind.ORDER), (1, 2, EdgeKind.ORDER), (2, 3, EdgeKind.ORDER), (2, 4, EdgeKind.ORDER)]
    graph, us = graph_of(5, edges, exclusive={2}), [2.0, 3.0, 1.0, 4.0, 4.0]
    plan = plan_kernels(graph, us, streams=2)
    assert_consistent(plan, graph, us)
    assert plan.stream_of()[2] == 0
    assert plan.streamed_us == 3.0 + 1.0 + 4.0


def test_exclusive_kernels_off_the_critical_path_stay_on_stream_0():
    graph, us = graph_of(3, [(0, 1)], exclusive={2}), [5.0, 5.0, 1.0]
    plan = plan_kernels(graph, us, streams=2)
    assert_consistent(plan, graph, us)
    assert plan.stream_of()[2] == 0
    assert plan.streamed_us == 10.0


def test_kernels_of_no_length_keep_their_order():
    graph, us = graph_of(4, [(1, 2), (2, 3)]), [2.0, 0.0, 0.0, 2.0]
    plan = plan_kernels(graph, us, streams=2)
    assert_consistent(plan, graph, us)
    assert plan.streamed_us == 2.0


@pytest.mark.parametrize(("streams", "most"), [(2, 36.0), (3, 31.0)])
def test_the_profile_of_deepseek_v32(streams, most):
    graph, us = load_profile(DSV32)
    plan = plan_kernels(graph, us, streams=streams)
    assert_consistent(plan, graph, us)
    assert plan.serial_us == pytest.approx(63.8)
    assert plan.critical_path_us == pytest.approx(30.8)
    assert plan.streamed_us <= most


def test_the_critical_path_is_on_the_callers_stream():
    graph, us = load_profile(DSV32)
    plan = plan_kernels(graph, us, streams=3)
    assert {plan.stream_of()[k] for k in plan.critical_path} == {0}


@pytest.mark.parametrize("streams", [0, -1])
def test_refuses_no_streams(streams):
    with pytest.raises(ValueError, match="1 or more"):
        plan_kernels(graph_of(1, []), [1.0], streams=streams)


@pytest.mark.parametrize("event_us", [-0.1, float("nan"), float("inf")])
def test_refuses_impossible_event_costs(event_us):
    with pytest.raises(ValueError, match="0 us or more"):
        plan_kernels(graph_of(1, []), [1.0], event_us=event_us)


@pytest.mark.parametrize("us", [[], [-1.0], [float("nan")]])
def test_refuses_impossible_times(us):
    with pytest.raises(ValueError, match="time"):
        plan_kernels(graph_of(1, []), us)


@settings(max_examples=80, deadline=None)
@given(priced_graphs(), st.integers(1, 3))
def test_stays_within_grahams_bound_of_the_optimum(case, streams):
    graph, us = case
    plan = plan_kernels(graph, us, streams=streams)
    assert_consistent(plan, graph, us)
    best = optimum(graph, us, streams)
    assert plan.lower_bound_us <= best <= plan.streamed_us <= (2 - 1 / streams) * best + 1e-9


@settings(max_examples=80, deadline=None)
@given(priced_graphs(most=12), st.integers(1, 5), st.sampled_from([0.0, 0.5, 2.0]))
def test_every_plan_is_consistent(case, streams, event_us):
    graph, us = case
    assert_consistent(plan_kernels(graph, us, streams=streams, event_us=event_us), graph, us)


@settings(max_examples=20, deadline=None)
@given(priced_graphs(most=12))
def test_the_same_input_gives_the_same_plan(case):
    assert plan_kernels(*case) == plan_kernels(*case)


@pytest.mark.parametrize(("kernels", "counts"), [(5, {1, 2, 3, 4, 5}), (6, {1, 2, 5})])
def test_large_graphs_are_listed_on_two_streams_and_on_the_most(monkeypatch, kernels, counts):
    monkeypatch.setattr(list_schedule, "MANY_KERNELS", 5)
    listed = list_schedule.list_schedules(graph_of(kernels, []), [1.0] * kernels, 5, 0.0)
    assert {len(set(assignment.stream)) for assignment in listed} == counts


def test_varied_schedules_take_few_streams_more_often_than_many():
    graph, rng = graph_of(6, []), random.Random(0)
    counts = [len(set(list_schedule.varied_schedule(graph, [1.0] * 6, 5, 0.0, rng).stream)) for _ in range(400)]
    found = [counts.count(streams) for streams in range(1, 6)]
    assert all(found) and found[1] > found[2] > found[3] > found[4]


def test_a_graph_of_20000_kernels():
    rng = random.Random(0)
    count, width = 20_000, 20
    edges = [(rng.randrange(max(0, i - 60), i - i % width), i) for i in range(width, count) for _ in range(2)]
    graph, us = graph_of(count, edges), [rng.uniform(1, 10) for _ in range(count)]
    plan = plan_kernels(graph, us, streams=3, event_us=1.0)
    check_plan(graph, plan)
    assert plan.streams == 3
    assert plan.streamed_us < 0.5 * plan.serial_us


def test_a_chain_of_20000_kernels():
    graph = graph_of(20_000, list(pairwise(range(20_000))))
    assert plan_kernels(graph, [1.0] * 20_000, streams=2).streamed_us == 20_000
