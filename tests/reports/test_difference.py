"""Check what is told of two reports: on plans by hand, of which one has a kernel on another stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphstreams.command_line.diff import compare, load_reports
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Event, Placement, Plan, Wait
from graphstreams.ir.threshold import Threshold
from graphstreams.reports.difference import check_report, difference
from graphstreams.reports.report import Report
from tests.support.hand_plan import EVENTS, GRAPH, PLACES, PLAN, US

ONE = Report("g", "clean", kernels=GRAPH, us=US, plan=PLAN, kernels_serial=6, kernels_streamed=6)
# `short` and `long` on each other's streams, with `long` first on its own.
SWAPPED = Plan(
    "g", 2,
    (Placement(0, "load", 0, 0.0, 2.0), Placement(2, "long", 1, 2.5, 8.5), Placement(1, "short", 0, 2.0, 4.5),
     Placement(3, "add", 0, 9.0, 10.0), Placement(4, "keep", 0, 10.0, 11.0)),
    (Event(0, 0, 0, (Wait(1, 2),)), Event(1, 1, 2, (Wait(0, 3),))), 11.0, 11.0, 9.0, 9.0, (0, 2, 3, 4), event_us=0.5,
)  # fmt: skip


def as_json(report: Report) -> Any:
    return json.loads(json.dumps(report.as_dict()))


def told(one: Report, other: Report) -> list[str]:
    return difference(as_json(one), as_json(other))


def test_a_report_does_not_differ_from_itself_nor_from_one_with_other_noise() -> None:
    assert told(ONE, ONE) == []
    later = replace(PLAN, placements=(*PLACES[:-1], replace(PLACES[-1], end_us=10.004)), streamed_us=10.004)
    assert told(ONE, replace(ONE, plan=later, seconds={"read": 2.0})) == []


def test_what_moved_and_what_that_costs() -> None:
    lines = told(ONE, replace(ONE, plan=SWAPPED))
    assert lines[:2] == ["predicted on streams, us: 10.0 -> 11.0", "gain, %: 9.1 -> 0.0"]
    assert [line for line in lines if ": stream: " in line] == ["kernel long: stream: 0 -> 1", "kernel short: stream: 1 -> 0"]
    assert [line for line in lines if ": waits for: " in line] == [
        "kernel long: waits for: none -> load (stream 0)",
        "kernel short: waits for: load (stream 0) -> none",
        "kernel add: waits for: short (stream 1) -> long (stream 1)",
    ]
    (why,) = [line for line in lines if line.startswith("kernel long: why here: ")]
    assert why.endswith(" -> It waits for 'load' on stream 0, the last that it needs, which ends at 2.0 us.")


def test_times_launches_and_gains() -> None:
    measured = replace(ONE, measurement=Measurement(12.0, 10.0, 9.0, 12.0, 20.0, 18.0))
    slower = replace(ONE, measurement=Measurement(12.0, 10.0, 10.8, 12.0, 20.0, 18.1), kernels_streamed=7)
    assert told(measured, slower) == [
        "launches on streams: 6 -> 7", "measured generated code, us: 9.0 -> 10.8", "gain, %: 25.0 -> 10.0",
    ]  # fmt: skip
    assert told(ONE, measured) == [
        "measured kernels on one stream, us: none -> 12.0", "measured kernels as planned, us: none -> 10.0",
        "measured Inductor's serial code, us: none -> 12.0", "measured generated code, us: none -> 9.0",
        "measured serial code launched by the host, us: none -> 18.0",
        "measured generated code launched by the host, us: none -> 20.0", "gain, %: 9.1 -> 25.0",
    ]  # fmt: skip
    assert told(ONE, replace(ONE, us=(2.0, 2.0, 5.2, 1.0, 1.0))) == ["kernel long: us alone: 5.0 -> 5.2"]


def test_verdict_reason_threshold_and_texts() -> None:
    serial = Report("g", "serial", "the predicted gain is 1.0%", "plan", notes=("kept",))
    assert told(serial, replace(serial, reason="the predicted gain is 1.2%")) == []  # but for its numbers it is the same
    lines = told(serial, replace(ONE, notes=("kept", "new one"), races=("a race",), threshold=Threshold("s0", 8, (), "why")))
    assert lines[0] == "verdict: serial (plan: the predicted gain is 1.0%) -> clean"
    assert lines[-2:] == ["races, new: a race", "notes, new: new one"]
    assert "tokens on streams: none -> 0 to 8" in lines
    assert "kernel load: only in the second" in lines
    assert told(replace(ONE, threshold=Threshold("s0", None, (), "")), ONE) == ["tokens on streams: 0 to any number -> none"]


def test_another_size_of_a_kernel() -> None:
    kernels = (replace(GRAPH.kernels[0], writes=()), *GRAPH.kernels[1:])
    graph = KernelGraph("g", kernels, GRAPH.edges, GRAPH.sizes)
    assert told(ONE, replace(ONE, kernels=graph)) == ["kernel load: bytes written: 512 -> 0"]


def test_a_file_the_folder_of_one_and_a_folder_of_folders(tmp_path: Path) -> None:
    one, other = ONE.save(tmp_path / "one" / "g"), replace(ONE, name="h", plan=SWAPPED).save(tmp_path / "other" / "h")
    lines = compare(one / "report.json", other)
    assert lines[0] == "g -> h" and "  kernel long: stream: 0 -> 1" in lines
    assert compare(tmp_path / "one", other) == lines  # each has one graph, whatever its name is
    assert compare(one, tmp_path / "one") == []
    replace(ONE, name="h").save(tmp_path / "one" / "h")
    lines = compare(tmp_path / "one", tmp_path / "other")
    assert lines[0] == f"g: only in {tmp_path / 'one'}" and lines[1] == "h"
    assert len(EVENTS) == 2


def test_reports_of_ranks(tmp_path: Path) -> None:
    for rank in range(2):
        ONE.save(tmp_path / f"rank{rank}" / "g")
    assert list(load_reports(tmp_path)) == ["rank0/g", "rank1/g"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "report.json: it is not JSON: Expecting value"),
        ("[]", "report.json: it is not a report.json"),
        ('{"verdict": "clean", "regions": {}}', "report.json: it is not a report.json"),
        ('{"verdict": "clean", "regions": [], "version": 2}', "it is a report of version 2; this graphstreams reads version 1"),
    ],
)
def test_what_is_no_report_is_told_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        compare(tmp_path, tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_a_report_that_lacks_a_key_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"verdict": "clean", "regions": [], "version": 1, "name": "g"}')
    with pytest.raises(ValueError, match="the reports on g and g can't be compared: 'reason'"):
        compare(tmp_path, tmp_path)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no report\.json, nor has a folder below it"):
        compare(tmp_path / "report.json", empty)
    assert check_report(as_json(ONE))["name"] == "g"
