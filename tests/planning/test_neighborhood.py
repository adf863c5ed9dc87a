"""Check that changes of a plan are legal and reach every plan."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.neighborhood import SearchSpace, signature
from graphstreams.planning.paths import Assignment
from tests.support.kernel_graphs import graph_of
from tests.support.search_spaces import assert_legal, assert_sound, every_row_set, rows, spaces


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_every_change_is_legal_and_makes_a_sound_plan(space, seed):
    if not space.free:
        return
    rng = random.Random(seed)
    for start in space.initial:
        current = start
        for _ in range(10):
            current = space.random_neighbor(current, rng)
            assert_legal(space.graph, current.order, current.stream, space.streams)
        assert_sound(space.plan(current), space)


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_a_change_leaves_the_assignment_that_it_starts_from(space, seed):
    start = space.initial[0]
    before = list(start.order), list(start.stream)
    if space.free:
        space.random_neighbor(start, random.Random(seed))
    assert (list(start.order), list(start.stream)) == before


def test_a_branch_moves_without_its_exclusive_kernels():
    space = SearchSpace(graph_of(4, [(0, 1), (1, 2), (2, 3)], exclusive={1}), [1.0] * 4, 2, 0.0)
    rng, streams = random.Random(0), set()
    for _ in range(200):
        streams.add(tuple(space.random_neighbor(space.initial[0], rng).stream))
    assert {stream[1] for stream in streams} == {0}
    assert streams >= {(0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1)}


def test_a_change_opens_one_stream_at_most():
    """Moves to different streams that nothing is on would be one and the same plan."""
    space = SearchSpace(graph_of(6, []), [1.0] * 6, 5, 0.0)
    rng, used = random.Random(0), set()
    for _ in range(300):
        used.add(len(set(space.random_neighbor(Assignment(range(6), [0, 0, 0, 1, 1, 1]), rng).stream)))
    assert {2, 3} <= used <= {1, 2, 3}
    found, current = set(), space.initial[0]
    for _ in range(300):
        current = space.random_neighbor(current, rng)
        found.add(len(set(current.stream)))
    assert found == {1, 2, 3, 4, 5}


def test_changes_reach_every_plan_of_a_small_graph():
    graph = graph_of(4, [(0, 1), (1, 2)])
    space = SearchSpace(graph, [1.0] * 4, 2, 0.0)
    rng, current, found = random.Random(0), space.initial[0], set()
    for _ in range(2000):
        current = space.random_neighbor(current, rng)
        found.add(rows(space.plan(current)))
    assert found == every_row_set(graph, 2)


def test_a_signature_says_what_each_stream_runs_and_not_its_number():
    space = SearchSpace(graph_of(3, []), [1.0] * 3, 2, 0.0)
    for assignment in space.initial:
        assert {row for row in signature(assignment)[1] if row} == rows(space.plan(assignment))


def test_plans_of_a_space_with_a_priority_have_it_and_differ_from_those_without():
    space = SearchSpace(graph_of(4, [(0, 1), (1, 2)]), [1.0] * 4, 2, 0.0)
    urgent = space.prioritized(-2)
    assert {urgent.plan(assignment).priority for assignment in urgent.initial} == {-2}
    assert {space.plan(assignment).priority for assignment in space.initial} == {0}
    assert not set(map(signature, urgent.initial)) & set(map(signature, space.initial))
    rng = random.Random(0)
    assert all(urgent.random_neighbor(assignment, rng).priority == -2 for assignment in urgent.initial)
    assert assignment_of(urgent.plan(urgent.initial[0])).priority == -2


def test_with_a_priority_it_matters_which_stream_is_the_callers():
    one, other = Assignment([0, 1], [0, 1], -2), Assignment([0, 1], [1, 0], -2)
    assert signature(one) != signature(other)
    assert signature(Assignment([0, 1], [0, 1])) == signature(Assignment([0, 1], [1, 0]))
