"""What events and stream contexts cost the host, on plans counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphstreams.graph.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning.assembly import assemble
from graphstreams.planning.host_cost import CONTEXT, EVENT, allowed_cost, extra_host_time, host_cost, light
from graphstreams.planning.paths import Assignment, timed
from graphstreams.planning.plan import Plan


def graph_of(launches: int = 1) -> KernelGraph:
    """0 goes to 1 and 2, these go to 3."""
    kernels = tuple(Kernel(i, f"k{i}", "gemm", launches=("mm",) * launches) for i in range(4))
    return KernelGraph("diamond", kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in [(0, 1), (0, 2), (1, 3), (2, 3)]))


def plan_of(order: list[int], stream: list[int]) -> Plan:
    graph, us = graph_of(), [1.0] * 4
    assignment = Assignment(order, stream)
    return assemble(graph, assignment, timed(assignment, graph.predecessors(), us, 0.0), us, 3, 0.0)


ONE = plan_of([0, 1, 2, 3], [0, 0, 0, 0])
# 2 on its own stream: behind 0 a record and a wait, behind 2 a record, and 3 waits.
TWO = plan_of([0, 1, 2, 3], [0, 0, 1, 0])
# 0 and 2 on the second stream, then 1 and 3 on the third: a fork for 0, for whose record 1 waits, 3 for 2's, and a join.
THREE = plan_of([0, 2, 1, 3], [1, 2, 1, 2])


def test_one_stream_costs_nothing() -> None:
    assert host_cost(ONE) == 0.0 == extra_host_time(ONE, graph_of())


def test_records_waits_and_contexts_are_counted() -> None:
    assert host_cost(TWO) == pytest.approx(4 * EVENT + CONTEXT)
    assert host_cost(THREE) == pytest.approx(8 * EVENT + 2 * CONTEXT)


def test_kernels_that_follow_each_other_on_a_stream_are_in_one_context() -> None:
    chain = plan_of([0, 2, 1, 3], [1, 0, 1, 1])
    assert host_cost(chain) - host_cost(plan_of([0, 1, 2, 3], [1, 1, 0, 1])) == 0.0
    events = len(chain.events) + sum(len(event.waits) for event in chain.events)
    assert host_cost(chain) == pytest.approx(events * EVENT + 2 * CONTEXT)


def test_the_share_is_that_of_all_launches() -> None:
    assert extra_host_time(TWO, graph_of()) == pytest.approx((4 * EVENT + CONTEXT) / 4)
    assert extra_host_time(TWO, graph_of(launches=3)) == pytest.approx((4 * EVENT + CONTEXT) / 12)
    # From a profile, which tells no launches.
    assert extra_host_time(TWO, graph_of(launches=0)) == pytest.approx((4 * EVENT + CONTEXT) / 4)
    nothing = replace(ONE, placements=(), events=())
    assert extra_host_time(nothing, KernelGraph("empty", (), ())) == 0.0


@pytest.mark.parametrize(
    ("launches", "share", "cost"), [(1, 0.15, 3.0), (5, 0.15, 3.0), (7, 0.15, 4.2), (5, 0.0, 3.0), (5, 1.0, 20.0)]
)
def test_a_share_of_the_launches_is_allowed_and_always_a_few(launches: int, share: float, cost: float) -> None:
    """Of 4, 20 or 28 launches."""
    assert allowed_cost(graph_of(launches), share) == pytest.approx(cost)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(0.0, [THREE, ONE, TWO]), (0.61, [THREE, ONE, TWO]), (0.63, [ONE, TWO]), (1.25, [THREE, ONE, TWO])],
)
def test_plans_that_cost_more_than_allowed_are_left_out_where_another_on_streams_does_not(
    allowed: float, expected: list[Plan]
) -> None:
    """They cost 1.24, nothing and 0.62 launches."""
    assert light([THREE, ONE, TWO], allowed) == expected
