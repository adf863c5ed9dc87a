"""Check where records and waits are placed, and which plans lack one."""

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.ir.kernels import EdgeKind
from graphstreams.ir.plan import FORK, JOIN, Event, Placement, Plan, Wait
from graphstreams.planning.synchronization import check_plan, place_events
from tests.support.kernel_graphs import graph_of


def plan_of(graph, order, stream_of, events):
    placements = tuple(Placement(k, graph.kernels[k].name, stream_of[k], 0.0, 0.0) for k in order)
    streams = 1 + max(stream_of.values(), default=0)
    return Plan(graph.name, streams, placements, events, 0.0, 0.0, 0.0, 0.0, ())


def placed(edges, streams):
    """Return the events of kernels 0, 1, ... on the given streams, as {recorded behind: [waited for before]}."""
    graph, stream_of = graph_of(len(streams), edges), dict(enumerate(streams))
    events = place_events(graph, range(len(streams)), stream_of)
    check_plan(graph, plan_of(graph, range(len(streams)), stream_of, events))
    assert [e.id for e in events] == list(range(len(events)))
    return {e.after: [w.kernel for w in e.waits] for e in events}


def test_one_stream_needs_none():
    assert placed([(0, 1), (1, 2)], [0, 0, 0]) == {}


def test_nothing_needs_none():
    assert place_events(graph_of(0, []), [], {}) == ()


def test_an_independent_kernel_is_forked_and_joined():
    assert placed([], [0, 1]) == {FORK: [1], 1: [JOIN]}


def test_a_wait_for_the_callers_stream_is_the_fork():
    assert placed([(0, 1), (1, 2)], [0, 1, 0]) == {0: [1], 1: [2]}


def test_a_wait_for_a_forked_stream_is_the_fork():
    assert placed([(0, 1)], [1, 2]) == {FORK: [0], 0: [1], 1: [JOIN]}


def test_one_event_has_several_waits():
    assert placed([(0, 1), (0, 2), (0, 3)], [0, 1, 2, 0]) == {0: [1, 2], 1: [JOIN], 2: [JOIN]}


def test_of_several_producers_on_a_stream_the_last_is_waited_for():
    assert placed([(0, 2), (1, 2)], [0, 0, 1]) == {1: [2], 2: [JOIN]}


def test_an_earlier_wait_covers_later_kernels_of_its_stream():
    assert placed([(0, 1), (0, 2)], [0, 1, 1]) == {0: [1], 2: [JOIN]}


def test_a_wait_implied_by_another_is_dropped():
    """Kernel 2 waits for 1, which waited for 0."""
    assert placed([(0, 1), (0, 2), (1, 2), (2, 3)], [0, 1, 2, 0]) == {0: [1], 1: [2], 2: [3]}


def test_a_write_after_a_read_is_ordered():
    assert placed([(0, 1), (1, 2, EdgeKind.WAR)], [0, 1, 0]) == {0: [1], 1: [2]}


def test_a_kernel_enqueued_before_its_producer_is_refused():
    with pytest.raises(ValueError, match="'k1' is enqueued before 'k0'"):
        place_events(graph_of(2, [(0, 1)]), [1, 0], {0: 0, 1: 0})


@st.composite
def assignments(draw):
    count = draw(st.integers(0, 9))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    streams = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(count))
    ranks = draw(st.permutations(range(count)))
    order = list(nx.lexicographical_topological_sort(graph, key=ranks.__getitem__))
    return graph_of(count, edges), order, dict(enumerate(streams))


def stream_order(order, stream_of):
    """Each stream's own order, with FORK ahead of stream 0 and JOIN behind it."""
    ordered = nx.DiGraph()
    ordered.add_nodes_from([FORK, *order, JOIN])
    for stream in {0, *stream_of.values()}:
        row = [k for k in order if stream_of[k] == stream]
        ordered.add_edges_from(pairwise([FORK, *row, JOIN] if stream == 0 else row))
    return ordered


def needed(graph, order, stream_of):
    """Return every pair that has to be ordered: the edges, the forks and the joins."""
    rows = [[k for k in order if stream_of[k] == s] for s in set(stream_of.values()) - {0}]
    return {(e.before, e.after) for e in graph.edges} | {(FORK, r[0]) for r in rows} | {(r[-1], JOIN) for r in rows}


def ordered_by(waits, order, stream_of):
    ordered = stream_order(order, stream_of)
    ordered.add_edges_from(waits)
    return {(a, b) for a in ordered for b in nx.descendants(ordered, a)}


@settings(max_examples=150, deadline=None)
@given(assignments())
def test_orders_what_is_needed_and_no_wait_can_go(case):
    graph, order, stream_of = case
    events = place_events(graph, order, stream_of)
    waits = [(e.after, w.kernel) for e in events for w in e.waits]
    pairs = needed(graph, order, stream_of)
    assert pairs <= ordered_by(waits, order, stream_of)
    for dropped in waits:
        assert not pairs <= ordered_by([w for w in waits if w != dropped], order, stream_of)
    assert len({e.after for e in events}) == len(events)
    assert len(set(waits)) == len(waits)
    assert all(e.waits for e in events)


@settings(max_examples=100, deadline=None)
@given(assignments())
def test_the_waits_are_those_of_the_transitive_reduction(case):
    graph, order, stream_of = case
    events = place_events(graph, order, stream_of)
    along = stream_order(order, stream_of)
    whole = along.copy()
    whole.add_edges_from(needed(graph, order, stream_of))
    reduced = set(nx.transitive_reduction(whole).edges) - set(along.edges)
    assert {(e.after, w.kernel) for e in events for w in e.waits} == reduced


@settings(max_examples=100, deadline=None)
@given(assignments(), st.data())
def test_the_check_accepts_the_events_and_misses_no_dropped_wait(case, data):
    graph, order, stream_of = case
    plan = plan_of(graph, order, stream_of, place_events(graph, order, stream_of))
    check_plan(graph, plan)
    if plan.events:
        event = data.draw(st.sampled_from(plan.events))
        wait = data.draw(st.sampled_from(event.waits))
        fewer = replace(event, waits=tuple(w for w in event.waits if w != wait))
        events = tuple(fewer if e == event else e for e in plan.events)
        with pytest.raises(ValueError, match=r"not ordered|not forked|not joined"):
            check_plan(graph, replace(plan, events=events))


@pytest.fixture
def arm():
    """Kernel 1 runs on stream 1 between 0 and 2 on stream 0."""
    graph, stream_of = graph_of(3, [(0, 1), (1, 2, EdgeKind.WAR)]), {0: 0, 1: 1, 2: 0}
    return graph, plan_of(graph, range(3), stream_of, place_events(graph, range(3), stream_of))


def test_the_check_names_both_kernels(arm):
    graph, plan = arm
    with pytest.raises(ValueError, match=r"'k2' \(stream 0\) is not ordered after kernel 'k1' \(stream 1\), a WAR"):
        check_plan(graph, replace(plan, events=plan.events[:1]))


def test_the_check_misses_no_fork():
    graph = graph_of(2, [])
    plan = plan_of(graph, range(2), {0: 0, 1: 1}, (Event(0, 1, 1, (Wait(0, JOIN),)),))
    with pytest.raises(ValueError, match="stream 1 is not forked: kernel 'k1'"):
        check_plan(graph, plan)


def test_the_check_misses_no_join():
    graph = graph_of(2, [])
    plan = plan_of(graph, range(2), {0: 0, 1: 1}, (Event(0, 0, FORK, (Wait(1, 1),)),))
    with pytest.raises(ValueError, match="stream 1 is not joined: nothing waits for kernel 'k1'"):
        check_plan(graph, plan)


def test_the_check_counts_the_kernels(arm):
    graph, plan = arm
    with pytest.raises(ValueError, match="'k2' is missing"):
        check_plan(graph, replace(plan, placements=plan.placements[:2]))
    with pytest.raises(ValueError, match="'k0' is placed twice"):
        check_plan(graph, replace(plan, placements=(*plan.placements, plan.placements[0])))
    with pytest.raises(ValueError, match="unknown to the graph"):
        check_plan(graph, replace(plan, placements=(*plan.placements, Placement(7, "k7", 0, 0.0, 0.0))))


def test_the_check_refuses_a_wait_before_its_record(arm):
    graph, plan = arm
    late = Event(2, 0, 2, (Wait(1, 1),))
    with pytest.raises(ValueError, match=r"'k1'.* waits for event 2 before .*'k2'.* records it"):
        check_plan(graph, replace(plan, events=(*plan.events, late)))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(2, 1, 0, ()), "event 2 is recorded on stream 1"),
        (Event(2, 0, 0, (Wait(0, 1),)), "the wait for event 2 stands on stream 0"),
        (Event(2, 0, 9, ()), "kernel 9, which the plan does not place"),
    ],
)
def test_the_check_refuses_events_on_other_streams(arm, event, message):
    graph, plan = arm
    with pytest.raises(ValueError, match=message):
        check_plan(graph, replace(plan, events=(*plan.events, event)))
