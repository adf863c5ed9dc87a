"""Draw spaces of plans, and compare plans with all that brute force finds."""

import itertools
import random
from functools import cache
from itertools import pairwise

from hypothesis import strategies as st

from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import timed
from graphstreams.planning.synchronization import check_plan
from tests.support.kernel_graphs import graph_of


@st.composite
def spaces(draw, most=9):
    """Return a random DAG with exclusive kernels, its times, a number of streams and a cost of events."""
    count = draw(st.integers(0, most))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    exclusive = draw(st.sets(st.sampled_from(range(count)), max_size=2)) if count else set()
    us = draw(st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count))
    return SearchSpace(graph_of(count, edges, exclusive), us, draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.5, 2.0])))


def assert_legal(graph, order, stream, streams):
    """Check that the order agrees with the edges, exclusive kernels are on stream 0, and streams have no gaps."""
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
    """Return what each stream of a plan runs, in order, whatever its number."""
    streams = [[p.kernel for p in plan.placements if p.stream == s] for s in range(plan.streams)]
    return frozenset(tuple(row) for row in streams)


def every_row_set(graph, streams):
    """Return by brute force what `rows` can be for a small graph: each order of each spread over the streams."""
    count, found = len(graph.kernels), set()
    for order in itertools.permutations(range(count)):
        if all(order.index(e.before) < order.index(e.after) for e in graph.edges):
            for spread in itertools.product(range(streams), repeat=count):
                lists = [tuple(k for k in order if spread[k] == s) for s in range(streams)]
                found.add(frozenset(row for row in lists if row))
    return found


def end_of(graph, us, lists, event_us=0.0):
    """Return by relaxation when the last kernel ends if each list has a stream of its own; the first is the caller's."""
    stream = {k: s for s, row in enumerate(lists) for k in row}
    pairs = {(e.before, e.after) for e in graph.edges} | {pair for row in lists for pair in pairwise(row)}
    start = {k: event_us if s else 0.0 for k, s in stream.items()}
    for _ in us:
        for a, b in pairs:
            start[b] = max(start[b], start[a] + us[a] + (event_us if stream[a] != stream[b] else 0.0))
    return max(start[k] + us[k] + (event_us if s else 0.0) for k, s in stream.items())


@cache
def large(shape):
    """Return 20,000 kernels, one behind another or twenty in a layer, and a list that grows with each simulation."""
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
