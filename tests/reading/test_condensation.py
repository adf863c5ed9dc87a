"""Check the finest partition of positions that keeps given pairs together and has no cycle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.reading.condensation import CIRCLE, acyclic_partition


def members(count, must_merge=(), links=()):
    return acyclic_partition(count, dict.fromkeys(must_merge, "pieces"), links).members


def test_nothing():
    assert members(0) == ()


def test_positions_without_links_keep_their_order():
    assert members(4) == ((0,), (1,), (2,), (3,))


def test_pairs_are_joined_transitively():
    assert members(5, [(3, 1), (3, 4)]) == ((0,), (1, 3, 4), (2,))


def test_a_circle_closed_by_joining_is_one_group():
    assert members(4, [(0, 2)], [(0, 1), (1, 2), (2, 3)]) == ((0, 1, 2), (3,))


def test_joining_without_a_circle_leaves_others_alone():
    assert members(4, [(0, 2)], [(0, 1), (2, 3)]) == ((0, 2), (1,), (3,))


def test_two_joined_pairs_that_cross_are_one_group():
    assert members(4, [(0, 3), (1, 2)], [(0, 1), (2, 3)]) == ((0, 1, 2, 3),)


def test_a_group_comes_after_all_that_its_members_follow():
    assert members(3, [(0, 2)], [(1, 2)]) == ((1,), (0, 2))


def test_links_within_a_group_and_repeated_links_are_no_circle():
    assert members(3, [(0, 1)], [(0, 1), (0, 2), (1, 2), (1, 2)]) == ((0, 1), (2,))


@pytest.mark.parametrize("circle", [False, True])
def test_twenty_thousand_positions_need_no_recursion(circle):
    count = 20_000
    must_merge = [(0, count - 1)] if circle else []
    groups = acyclic_partition(count, dict.fromkeys(must_merge, "pieces"), [(i, i + 1) for i in range(count - 1)])
    assert len(groups.members) == (1 if circle else count)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 12))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).map(sorted).map(tuple)
    return count, draw(st.lists(pair, max_size=5)), [p for p in draw(st.lists(pair, max_size=20)) if p[0] != p[1]]


def components(count, must_merge, links):
    """Sets of positions that reach each other once joined pairs are linked in both directions, by Warshall's closure."""
    reaches = {*links, *must_merge, *((b, a) for a, b in must_merge), *((p, p) for p in range(count))}
    for via in range(count):
        reaches |= {(a, b) for a in range(count) for b in range(count) if (a, via) in reaches and (via, b) in reaches}
    return {tuple(b for b in range(count) if (a, b) in reaches and (b, a) in reaches) for a in range(count)}


@settings(max_examples=300, deadline=None)
@given(problems())
def test_groups_are_the_strongly_connected_components(problem):
    assert set(members(*problem)) == components(*problem)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_order_of_groups_respects_every_link(problem):
    count, must_merge, links = problem
    groups = acyclic_partition(count, dict.fromkeys(must_merge, "pieces"), links)
    assert all(position in groups.members[groups.of[position]] for position in range(count))
    assert all(groups.of[before] <= groups.of[after] for before, after in links)


def test_each_group_of_several_says_why():
    groups = acyclic_partition(6, {(0, 1): "pieces", (1, 0): "pieces"}, [(2, 3), (3, 2), (1, 4)])
    assert groups.members == ((0, 1), (2, 3), (4,), (5,))
    assert groups.reasons == ("pieces", CIRCLE, "", "")
