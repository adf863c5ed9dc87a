"""Check that all plans of a tiny graph come once each, and none that edges or exclusive kernels forbid."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.planning.exhaustive_search import every_assignment
from tests.support.kernel_graphs import graph_of


def rows(order, stream):
    """Return the caller's list of kernels, and those of the aux streams whatever their numbers."""
    lists = {s: tuple(k for k in order if stream[k] == s) for s in set(stream)}
    return lists.pop(0), frozenset(lists.values())


def by_brute_force(graph, streams):
    count = len(graph.kernels)
    return {
        rows(order, stream)
        for order in itertools.permutations(range(count))
        if all(order.index(e.before) < order.index(e.after) for e in graph.edges)
        for stream in itertools.product(range(streams), repeat=count)
        if 0 in stream and not any((k.exclusive or k.allocates_output) and stream[k.id] for k in graph.kernels)
    }


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 4))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    exclusive, returned = (draw(st.sets(st.sampled_from(range(count)), max_size=1)) for _ in range(2))
    return graph_of(count, edges, exclusive, returned)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 4))
def test_they_are_those_of_brute_force_each_once(graph, streams):
    found = every_assignment(graph, streams, most=10_000)
    assert {rows(a.order, a.stream) for a in found} == by_brute_force(graph, streams)
    assert len({rows(a.order, a.stream) for a in found}) == len(found)
    for each in found:
        assert set(each.stream) == set(range(len(set(each.stream))))
        assert all(each.order.index(e.before) < each.order.index(e.after) for e in graph.edges)


@pytest.mark.parametrize(
    ("count", "edges", "streams", "plans"),
    [(1, [], 5, 1), (2, [], 1, 2), (2, [(0, 1)], 2, 3), (2, [], 2, 4), (5, [], 5, 1045)],
)
def test_so_many_there_are(count, edges, streams, plans):
    """Two kernels with an edge: both on the caller's stream, or one or the other; without, both orders there.

    n kernels on k streams are n! / k! * C(n - 1, k - 1) sets of lists (Lah numbers), and each of the k may be the caller's:
    for five 120 + 480 + 360 + 80 + 5.
    """
    assert len(every_assignment(graph_of(count, edges), streams, most=1600)) == plans


def test_more_than_asked_for_are_none():
    assert every_assignment(graph_of(3, []), 2, most=18) is not None
    assert every_assignment(graph_of(3, []), 2, most=17) is None
    assert every_assignment(graph_of(8, []), 5, most=1600) is None
