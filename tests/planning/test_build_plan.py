"""Check plans made of an assignment and its times."""

import random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.ir.plan import FORK, JOIN
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.list_schedule import list_schedules, plan_kernels
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.synchronization import check_plan
from tests.support.kernel_graphs import graph_of


def plan_of(graph, order, stream, us, streams=2, event_us=0.0):
    assignment = Assignment(order, stream)
    return assemble(graph, assignment, timed(assignment, graph.predecessors(), us, event_us), us, streams, event_us)


DIAMOND = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
US = [1.0, 2.0, 5.0, 1.0]


def test_a_diamond_with_its_short_side_on_stream_1():
    """k1 runs 1.5 us behind k0, from 2.5 to 4.5 us; the other side ends at 6 us."""
    plan = plan_of(DIAMOND, [0, 1, 2, 3], [0, 1, 0, 0], US, streams=3, event_us=1.5)
    check_plan(DIAMOND, plan)
    assert [(p.kernel, p.name, p.stream, p.start_us, p.end_us) for p in plan.placements] == [
        (0, "k0", 0, 0.0, 1.0),
        (2, "k2", 0, 1.0, 6.0),
        (1, "k1", 1, 2.5, 4.5),
        (3, "k3", 0, 6.0, 7.0),
    ]
    assert [(e.after, [(w.stream, w.kernel) for w in e.waits]) for e in plan.events] == [(0, [(1, 1)]), (1, [(0, 3)])]
    assert (plan.name, plan.streams, plan.priority, plan.event_us) == ("g", 2, 0, 1.5)
    assert (plan.serial_us, plan.streamed_us, plan.critical_path_us) == (9.0, 7.0, 7.0)
    assert plan.critical_path == (0, 2, 3)


def test_the_lower_bound_is_the_longest_path_or_an_even_share_of_the_streams_allowed():
    assert plan_of(DIAMOND, range(4), [0, 1, 0, 0], US, streams=2).lower_bound_us == 7.0
    arms = graph_of(4, [])
    assert plan_of(arms, range(4), [0, 1, 0, 1], [4.0] * 4, streams=2).lower_bound_us == 8.0
    assert plan_of(arms, range(4), [0, 1, 0, 1], [4.0] * 4, streams=3).lower_bound_us == pytest.approx(16 / 3)


def test_the_lower_bound_is_not_above_the_plan_by_rounding():
    """From its end the chain is summed up to 0.1 + 0.2 + 0.3 > 0.6 us, from its start to 0.3 + 0.2 + 0.1 == 0.6 us."""
    plan = plan_of(graph_of(3, [(0, 1), (1, 2)]), [0, 1, 2], [0, 0, 0], [0.3, 0.2, 0.1])
    assert plan.critical_path_us > plan.streamed_us
    assert plan.lower_bound_us == plan.streamed_us == 0.6


def test_kernels_on_one_stream_need_no_event():
    plan = plan_of(DIAMOND, [0, 2, 1, 3], [0, 0, 0, 0], US, event_us=1.0)
    assert (plan.streams, plan.events, plan.streamed_us) == (1, (), 9.0)
    assert [p.kernel for p in plan.placements] == [0, 2, 1, 3]


def test_a_stream_without_a_predecessor_is_forked_and_one_without_a_successor_joined():
    plan = plan_of(graph_of(2, []), [0, 1], [0, 1], [4.0, 3.0])
    assert [(e.after, [w.kernel for w in e.waits]) for e in plan.events] == [(FORK, [1]), (1, [JOIN])]


def test_no_kernels_are_an_empty_plan():
    plan = plan_of(graph_of(0, []), [], [], [])
    assert (plan.streams, plan.placements, plan.events, plan.serial_us, plan.streamed_us) == (1, (), (), 0, 0)


@st.composite
def assigned(draw):
    """Return a random DAG, a random order of it, streams without gaps, and times."""
    count = draw(st.integers(1, 10))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    ranks = draw(st.permutations(range(count)))
    dag = nx.DiGraph(edges)
    dag.add_nodes_from(range(count))
    order = list(nx.lexicographical_topological_sort(dag, key=ranks.__getitem__))
    drawn = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    number = {s: i for i, s in enumerate(sorted(set(drawn)))}
    us = draw(st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count))
    return graph_of(count, edges), Assignment(order, [number[s] for s in drawn]), us


def rows(assignment):
    return {s: [k for k in assignment.order if assignment.stream[k] == s] for s in sorted(set(assignment.stream))}


def assert_of(plan, graph, assignment, timing):
    """Check that the plan is sound, and has every stream's kernels, order and times."""
    check_plan(graph, plan)
    assert plan.streams == len(set(assignment.stream))
    for stream, row in rows(assignment).items():
        assert [p.kernel for p in plan.placements if p.stream == stream] == row
    assert {p.kernel: (p.start_us, p.end_us) for p in plan.placements} == {
        k: (timing.start[k], timing.end[k]) for k in assignment.order
    }
    place = {p.kernel: i for i, p in enumerate(plan.placements)}
    assert all(place[e.before] < place[e.after] for e in graph.edges)
    assert plan.lower_bound_us <= plan.streamed_us == timing.makespan


@settings(max_examples=100, deadline=None)
@given(assigned(), st.sampled_from([0.0, 0.5, 2.0]))
def test_a_plan_is_sound_and_what_was_assigned(case, event_us):
    graph, assignment, us = case
    timing = timed(assignment, graph.predecessors(), us, event_us)
    assert_of(assemble(graph, assignment, timing, us, 4, event_us), graph, assignment, timing)


@settings(max_examples=100, deadline=None)
@given(assigned(), st.randoms(use_true_random=False))
def test_a_plan_is_sound_whatever_a_simulator_says_of_its_times(case, rng):
    """Another simulator may know of kernels that slow each other down; times that contradict the edges are the worst case."""
    graph, assignment, us = case
    start = [float(rng.randrange(6)) for _ in us]
    timing = Timing(start, [s + t for s, t in zip(start, us, strict=True)], 100.0)
    assert_of(assemble(graph, assignment, timing, us, 4, 1.0), graph, assignment, timing)


def test_plans_of_list_schedules_are_made_the_same_way():
    rng = random.Random(1)
    edges = [(a, b) for b in range(12) for a in range(b) if rng.random() < 0.2]
    graph, us = graph_of(12, edges), [rng.uniform(1, 5) for _ in range(12)]
    plans = []
    for assignment in list_schedules(graph, us, 3, 0.5):
        timing = timed(assignment, graph.predecessors(), us, 0.5)
        plans.append(assemble(graph, assignment, timing, us, 3, 0.5))
        assert_of(plans[-1], graph, assignment, timing)
    assert plan_kernels(graph, us, 3, 0.5) in plans
