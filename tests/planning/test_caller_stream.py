"""Check which stream of an assignment becomes the caller's."""

from graphstreams.planning.caller_stream import critical_path_on_caller, exchanged
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment
from graphstreams.planning.synchronization import check_plan
from tests.support.kernel_graphs import graph_of


def test_the_critical_path_is_on_the_callers_stream():
    """k1 is the long one. If a kernel has to be on the caller's stream, the numbers stay."""
    given = Assignment([0, 1, 2], [0, 1, 0])
    assert critical_path_on_caller(SearchSpace(graph_of(3, []), [1.0, 9.0, 1.0], 2, 0.0), given).stream == [1, 0, 1]
    assert critical_path_on_caller(SearchSpace(graph_of(3, [], exclusive={0}), [1.0, 9.0, 1.0], 2, 0.0), given) == given
    assert critical_path_on_caller(SearchSpace(graph_of(0, []), [], 2, 0.0), Assignment([], [])) == Assignment([], [])


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
