"""Check dependences between kernels against edges worked out by hand and against the definition."""

import itertools

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.reading.dependences import StorageUse, dependences


def edges(*kernels):
    return {(e.before, e.after, e.kind.value, e.storage) for e in dependences(kernels)}


def touched(reads="", writes="", exclusive=False):
    return StorageUse(tuple(reads), tuple(writes), exclusive)


def test_collectives_come_one_after_another_and_nothing_else_does():
    collective = StorageUse((), (), collective=True)
    assert edges(collective, touched(writes="a"), collective, touched(reads="a"), collective) == {
        (0, 2, "order", ""), (2, 4, "order", ""), (1, 3, "RAW", "a"),
    }  # fmt: skip


def test_no_kernels_no_edges():
    assert dependences([]) == ()


def test_a_reader_comes_after_the_writer():
    assert edges(touched(writes="a"), touched(reads="a")) == {(0, 1, "RAW", "a")}


def test_an_overwriter_comes_after_the_reader_and_the_writer():
    kernels = touched(writes="a"), touched(reads="a"), touched(writes="a")
    assert edges(*kernels) == {(0, 1, "RAW", "a"), (1, 2, "WAR", "a"), (0, 2, "WAW", "a")}


def test_two_readers_stay_unordered():
    assert edges(touched(reads="a"), touched(reads="a")) == set()


def test_an_overwriter_on_another_branch_comes_after_every_reader():
    kernels = touched(reads="c", writes="y"), touched(reads="c", writes="z"), touched(reads="x", writes="c")
    assert edges(*kernels) == {(0, 2, "WAR", "c"), (1, 2, "WAR", "c")}


def test_a_reader_comes_after_the_last_writer_only():
    kernels = touched(writes="a"), touched(writes="a"), touched(reads="a")
    assert edges(*kernels) == {(0, 1, "WAW", "a"), (1, 2, "RAW", "a")}


def test_updates_in_place_form_a_chain():
    kernels = [touched(reads="a", writes="a")] * 3
    assert edges(*kernels) == {(i, i + 1, kind, "a") for i in (0, 1) for kind in ("RAW", "WAW")}


def test_a_reader_between_two_updates_in_place_is_ordered_with_both():
    kernels = touched("a", "a"), touched("a"), touched("a", "a")
    assert edges(*kernels) >= {(0, 1, "RAW", "a"), (1, 2, "WAR", "a"), (0, 2, "WAW", "a")}


def test_one_pair_has_an_edge_for_each_storage():
    assert edges(touched(writes="ab"), touched(reads="ab")) == {(0, 1, "RAW", "a"), (0, 1, "RAW", "b")}


def test_an_exclusive_kernel_parts_what_is_before_from_what_is_after():
    kernels = touched(writes="a"), touched(writes="b"), touched(exclusive=True), touched(writes="c"), touched(writes="d")
    assert edges(*kernels) == {(i, 2, "order", "") for i in (0, 1)} | {(2, i, "order", "") for i in (3, 4)}


def test_exclusive_kernels_keep_their_order():
    assert edges(*[touched(exclusive=True)] * 3) == {(0, 1, "order", ""), (1, 2, "order", "")}


def test_an_exclusive_kernel_at_either_end():
    assert edges(touched(exclusive=True), touched(writes="a")) == {(0, 1, "order", "")}
    assert edges(touched(writes="a"), touched(exclusive=True)) == {(0, 1, "order", "")}


def test_an_exclusive_kernel_keeps_its_data_edges():
    assert edges(touched(writes="a"), touched(reads="a", exclusive=True)) == {(0, 1, "RAW", "a"), (0, 1, "order", "")}


storages = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)
programs = st.lists(st.builds(StorageUse, storages, storages, st.sampled_from([False] * 5 + [True])), max_size=12)


def conflict(first, second):
    """Return whether the program order of two kernels matters, from the definition."""
    shared = set(first.writes) & {*second.reads, *second.writes} | set(first.reads) & set(second.writes)
    return bool(shared) or first.exclusive or second.exclusive


@settings(max_examples=300, deadline=None)
@given(programs)
def test_the_order_is_exactly_that_of_all_conflicting_pairs(kernels):
    expected = nx.DiGraph(
        pair for pair in itertools.combinations(range(len(kernels)), 2) if conflict(*map(kernels.__getitem__, pair))
    )
    found = nx.DiGraph((e.before, e.after) for e in dependences(kernels))
    assert set(nx.transitive_closure(found).edges) == set(nx.transitive_closure(expected).edges)


@settings(max_examples=100, deadline=None)
@given(programs)
def test_edges_are_forward_and_true_of_their_kind(kernels):
    found = dependences(kernels)
    assert len(set(found)) == len(found)
    for edge in found:
        before, after = kernels[edge.before], kernels[edge.after]
        assert edge.before < edge.after
        assert {
            "RAW": edge.storage in before.writes and edge.storage in after.reads,
            "WAR": edge.storage in before.reads and edge.storage in after.writes,
            "WAW": edge.storage in before.writes and edge.storage in after.writes,
            "order": (before.exclusive or after.exclusive) and edge.storage == "",
        }[edge.kind.value]
