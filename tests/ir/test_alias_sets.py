"""Check sets of names that share memory, each of which is represented by a graph input if it has one."""

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.ir.alias_sets import AliasSets


def merged(pairs, inputs=()):
    return AliasSets(inputs, pairs)


def test_a_name_starts_as_its_own_storage():
    assert merged([]).storage("buf0") == "buf0"


def test_merged_names_are_one_storage():
    storages = merged([("buf0", "buf1"), ("buf2", "buf1")])
    assert {storages.storage(f"buf{i}") for i in range(3)} == {storages.storage("buf0")}
    assert storages.storage("buf3") == "buf3"


def test_merging_again_or_with_itself_changes_nothing():
    storages = merged([("a", "b"), ("b", "a"), ("a", "a")])
    assert storages.storage("a") == storages.storage("b")


def test_the_input_stands_for_the_storage():
    for pair in (("arg0", "buf0"), ("buf0", "arg0")):
        assert merged([pair], ["arg0"]).storage("buf0") == "arg0"


def test_the_input_stands_for_a_storage_that_was_merged_before():
    assert merged([("buf0", "buf1"), ("buf1", "buf2"), ("buf2", "arg0")], ["arg0"]).storage("buf0") == "arg0"


def test_a_long_chain_of_mutations():
    storages = merged([(f"buf{i}", f"buf{i + 1}") for i in range(20_000)])
    assert storages.storage("buf20000") == storages.storage("buf0")


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15)


@settings(max_examples=200, deadline=None)
@given(pairs, st.integers(0, 9))
def test_agrees_with_connected_components(links, single_input):
    storages = merged([(str(a), str(b)) for a, b in links], [str(single_input)])
    graph = nx.Graph(links)
    graph.add_nodes_from(range(10))
    for component in nx.connected_components(graph):
        (representative,) = {storages.storage(str(i)) for i in component}
        assert int(representative) in component
        assert single_input not in component or representative == str(single_input)
