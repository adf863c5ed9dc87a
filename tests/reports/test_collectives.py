"""Check what a report says of collectives, for a plan made by hand."""

from __future__ import annotations

import json

from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Placement, Plan
from graphstreams.reports.collectives import overlaps
from graphstreams.reports.report import FILES, Report
from graphstreams.reports.timeline import timeline

KERNELS = (
    Kernel(0, "a", "gemm"),
    Kernel(1, "sum", "collective", collective="start", group="0"),
    Kernel(2, "b", "gemm"),
    Kernel(3, "wait", "wait", collective="wait"),
    Kernel(4, "c", "gemm"),
)
EDGES = (Edge(0, 1, EdgeKind.RAW), Edge(1, 3, EdgeKind.RAW), Edge(1, 3, EdgeKind.ORDER))
GRAPH = KernelGraph("g", KERNELS, EDGES)
PLACES = (
    Placement(0, "a", 0, 0.0, 4.0),
    Placement(1, "sum", 0, 4.0, 14.0),
    Placement(2, "b", 0, 4.0, 7.0),
    Placement(4, "c", 1, 6.0, 12.0),
    Placement(3, "wait", 0, 14.0, 14.0),
)
US = (4.0, 10.0, 3.0, 0.0, 6.0)
PLAN = Plan("g", 2, PLACES, (), 23.0, 14.0, 14.0, 14.0, (0, 1, 3))


def test_what_runs_beside_a_collective_and_for_how_long_nothing_does() -> None:
    """Of 10 us from 4 to 14 us, b and c cover 4 to 12 us together."""
    (found,) = overlaps(PLAN, GRAPH)
    assert (found.name, found.us, found.beside, found.idle_us) == ("sum", 10.0, ("b", "c"), 2.0)
    report = Report("g", "clean", kernels=GRAPH, us=US, plan=PLAN)
    text = "sum: 10.0 us, beside it b, c; for 2.0 us the GPU has nothing else to do"
    assert text in str(report) and text in FILES["table.txt"](report)
    assert json.loads(FILES["report.json"](report))["collectives"] == [
        {"name": "sum", "us": 10.0, "beside": ["b", "c"], "idle_us": 2.0}
    ]


def test_the_timeline_has_a_row_for_collectives() -> None:
    """In serial code, which waits at once, b and c run behind the wait."""
    slices = [event for event in timeline(PLAN, GRAPH, US)["traceEvents"] if event["ph"] == "X"]
    rows = {(event["pid"], event["name"]): (event["tid"], event["ts"], event["dur"]) for event in slices}
    assert rows[1, "sum"] == (1000, 4.0, 10.0)
    assert rows[1, "b"] == (0, 4.0, 3.0)
    assert [rows[2, name] for name in ("a", "sum", "b", "wait", "c")] == [
        (0, 0.0, 4.0), (1000, 4.0, 10.0), (0, 4.0, 3.0), (0, 14.0, 0.0), (0, 14.0, 6.0),
    ]  # fmt: skip
    named = {event["tid"] for event in timeline(PLAN, GRAPH, US)["traceEvents"] if event["name"] == "thread_name"}
    assert named == {0, 1, 1000}
