"""Check the table of a plan and its summary."""

from dataclasses import replace

import pytest

from graphstreams.costs.profile import load_profile
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.tables import plan_table, summary, us_text
from tests.support.paths import DSV32


@pytest.fixture
def diamond():
    kernels = tuple(Kernel(i, name, "profile") for i, name in enumerate(("load", "short", "long", "add", "free")))
    edges = tuple(Edge(a, b, EdgeKind.RAW) for a, b in ((0, 1), (0, 2), (1, 3), (2, 3)))
    graph = KernelGraph("diamond", kernels, edges)
    plan = plan_kernels(graph, [1.0, 2.25, 5.0, 0.25, 2.0], streams=3)
    return plan, graph, [1.0, 2.25, 4.5, 0.25, 2.0]  # the third takes 0.5 us less alone


def test_the_table_of_a_diamond(diamond):
    plan, graph, us = diamond
    lines = [line.split(maxsplit=6) for line in plan_table(plan, graph, us).splitlines()]
    assert lines[0] == ["kernel", "stream", "start", "end", "us", "alone", "waits for"]
    assert [line[0] for line in lines[2:]] == [p.name for p in plan.placements]
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows["load"] == ["0", "0.0", "1.0", "1.0", "1.0"]
    assert rows["long"] == ["0", "1.0", "6.0", "5.0", "4.5"]
    assert rows["add"] == ["0", "6.0", "6.2", "0.25", "0.25", "short (stream 1)"]
    assert rows["free"] == ["1", "0.0", "2.0", "2.0", "2.0", "fork"]
    assert rows["short"] == ["1", "2.0", "4.2", "2.2", "2.2", "load (stream 0)"]


def test_the_join_has_a_row_where_it_waits():
    graph = KernelGraph("g", (Kernel(0, "a", "profile"), Kernel(1, "b", "profile")), ())
    last = plan_table(plan_kernels(graph, [4.0, 3.0], streams=2), graph, [4.0, 3.0]).splitlines()[-1]
    assert last.split() == ["join", "0", "4.0", "4.0", "b", "(stream", "1)"]


def test_the_table_of_nothing():
    graph = KernelGraph("empty", (), ())
    assert plan_table(plan_kernels(graph, []), graph, []).split()[:2] == ["kernel", "stream"]


def test_the_summary_of_the_profile():
    plan = plan_kernels(*load_profile(DSV32), streams=3)
    first, second = summary(plan).splitlines()
    assert first == "predicted: 30.8 us on 3 streams, 63.8 us on one; speed-up 2.07"
    assert second.startswith("lower bound 30.8 us, critical path 30.8 us; ")
    assert f"{len(plan.events)} events" in second


def test_the_summary_counts_in_the_singular_and_divides_by_no_zero():
    plan = plan_kernels(KernelGraph("empty", (), ()), [])
    assert "on 1 stream, 0.0 us on one; speed-up 1.00" in summary(plan)
    assert "0.50 us each" in summary(replace(plan, event_us=0.5))


@pytest.mark.parametrize(("us", "text"), [(0, "0.0"), (0.04, "0.04"), (0.5, "0.50"), (1, "1.0"), (12.34, "12.3")])
def test_decimals(us, text):
    assert us_text(us) == text
