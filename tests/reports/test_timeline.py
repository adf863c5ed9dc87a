"""Check the timeline of a plan as a trace for a viewer."""

import json
from itertools import pairwise

import pytest

from graphstreams.costs.profile import load_profile
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import FORK, Placement, Plan
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.timeline import timeline
from tests.support.paths import DSV32


@pytest.fixture(params=[2, 3])
def case(request):
    graph, us = load_profile(DSV32)
    plan = plan_kernels(graph, us, streams=request.param, event_us=0.5)
    return graph, us, plan, timeline(plan, graph, us)["traceEvents"]


def slices(records, process):
    return [r for r in records if r["ph"] == "X" and r["pid"] == process and r["name"] != "join"]


def test_is_json(case):
    graph, us, plan, _ = case
    trace = timeline(plan, graph, us)
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace


def test_rows_are_named(case):
    _, _, plan, records = case
    named = {(r["name"], r["pid"], r["tid"]): r["args"] for r in records if r["ph"] == "M"}
    assert named["process_name", 1, 0]["name"] == "streamed (predicted)"
    assert named["process_name", 2, 0]["name"] == "serial (predicted)"
    rows = [named["thread_name", 1, s]["name"] for s in range(plan.streams)]
    assert rows == ["stream 0 (the caller's)", "stream 1", "stream 2"][: plan.streams]
    assert all(named["thread_sort_index", 1, s]["sort_index"] == s for s in range(plan.streams))
    assert {(r["pid"], r["tid"]) for r in records} == {(p, t) for kind, p, t in named if kind == "thread_name"}


def test_the_streamed_process_shows_the_plan(case):
    graph, us, plan, records = case
    shown = slices(records, 1)
    assert [(r["name"], r["tid"], r["ts"]) for r in shown] == [
        (p.name, p.stream, pytest.approx(p.start_us)) for p in plan.placements
    ]
    for record in shown:
        kernel = graph.kernels[record["args"]["kernel"]]
        assert record["dur"] == pytest.approx(us[kernel.id])
        assert record["args"]["launches"] == list(kernel.launches)
        assert record["args"]["parameters"] == []


def test_the_serial_process_shows_the_program_order(case):
    graph, us, plan, records = case
    shown = slices(records, 2)
    assert [r["name"] for r in shown] == [k.name for k in graph.kernels]
    assert [r["dur"] for r in shown] == [pytest.approx(t) for t in us]
    assert shown[0]["ts"] == 0
    assert all(b["ts"] == pytest.approx(a["ts"] + a["dur"]) for a, b in pairwise(shown))
    assert shown[-1]["ts"] + shown[-1]["dur"] == pytest.approx(plan.serial_us)


def test_the_serial_process_has_the_times_alone_and_not_those_of_the_plan():
    """In the plan b is slowed from 3 to 5 us: the serial code takes 4 + 3 us all the same."""
    graph = KernelGraph("g", (Kernel(0, "a", "profile"), Kernel(1, "b", "profile")), ())
    places = (Placement(0, "a", 0, 0.0, 4.0), Placement(1, "b", 1, 0.0, 5.0))
    plan = Plan("g", 2, places, (), 7.0, 5.0, 4.0, 4.0, (0,))
    records = timeline(plan, graph, [4.0, 3.0])["traceEvents"]
    assert [(r["name"], r["ts"], r["dur"]) for r in slices(records, 2)] == [("a", 0.0, 4.0), ("b", 4.0, 3.0)]
    assert [(r["dur"], r["args"]["alone_us"]) for r in slices(records, 1)] == [(4.0, 4.0), (5.0, 3.0)]


def test_each_arrow_leaves_and_reaches_a_slice(case):
    _, _, plan, records = case
    starts = {r["id"]: r for r in records if r["ph"] == "s"}
    ends = {r["id"]: r for r in records if r["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert len(starts) == sum(len(e.waits) for e in plan.events if e.after != FORK)
    for number, start in starts.items():
        assert (start["cat"], start["name"]) == (ends[number]["cat"], ends[number]["name"])
        assert start["tid"] != ends[number]["tid"]
        assert ends[number]["bp"] == "e"
        assert any(r["tid"] == start["tid"] and r["ts"] <= start["ts"] < r["ts"] + r["dur"] for r in slices(records, 1))
        assert any(r["tid"] == ends[number]["tid"] and r["ts"] == ends[number]["ts"] for r in slices(records, 1))


def test_waits_are_named(case):
    _, _, plan, records = case
    waits = {r["name"]: r["args"]["waits"] for r in slices(records, 1)}
    assert sum(map(len, waits.values())) == sum(len(e.waits) for e in plan.events)
    assert waits["qkv_a_proj"] == []
    assert ["fork"] in waits.values()


def test_the_join_is_reached_by_an_arrow():
    graph = KernelGraph("g", (Kernel(0, "a", "profile"), Kernel(1, "b", "profile")), ())
    records = timeline(plan_kernels(graph, [4.0, 3.0], streams=2), graph, [4.0, 3.0])["traceEvents"]
    (join,) = (r for r in records if r["name"] == "join")
    (arrow,) = (r for r in records if r["ph"] == "f")
    assert (join["ts"], join["tid"], join["args"]["waits"]) == (4.0, 0, ["b (stream 1)"])
    assert (arrow["ts"], arrow["tid"]) == (4.0, 0)


def test_the_timeline_of_nothing():
    graph = KernelGraph("empty", (), ())
    assert {r["ph"] for r in timeline(plan_kernels(graph, []), graph, [])["traceEvents"]} == {"M"}
