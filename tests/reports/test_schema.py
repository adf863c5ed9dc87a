"""Check that reports are as `docs/report.schema.json` says, and that the check notices where they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphstreams.ir.measurement import Measurement
from graphstreams.ir.threshold import Threshold
from graphstreams.pipeline.explain import explain
from graphstreams.reports.report import Report
from tests.reports import test_collectives
from tests.support.hand_plan import GRAPH, PLAN, US
from tests.support.json_schema import faults
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))
BY_HAND = Report("g", "clean", kernels=GRAPH, us=US, plan=PLAN)
MEASURED = replace(
    BY_HAND, measurement=Measurement(10.0, plans=((9.0, 8.5),)), threshold=Threshold("s0", None, ((8, 2.0, 1.0),), "why")
)
WITH_COLLECTIVES = Report("g", "clean", kernels=test_collectives.GRAPH, us=test_collectives.US, plan=test_collectives.PLAN)


def as_json(report: Report) -> Any:
    return json.loads(json.dumps(report.as_dict(), allow_nan=False))


@pytest.mark.parametrize("report", [BY_HAND, MEASURED, WITH_COLLECTIVES, Report("g", "serial", "why", "read")])
def test_reports_made_by_hand_are_as_the_schema_says(report: Report) -> None:
    assert faults(SCHEMA, as_json(report)) == []


def test_reports_of_graphs_are_as_the_schema_says() -> None:
    clean = explain(*module_and_inputs("diamond"), target="h200", options=FREE_EVENTS)
    assert clean.plan is not None and clean.inputs and clean.launch_lines
    for report in (clean, captured("only_views").report):
        assert faults(SCHEMA, as_json(report)) == []


def test_jsonschema_agrees_if_it_is_there() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(as_json(MEASURED), SCHEMA)


def test_every_key_is_required_and_no_other_is_allowed() -> None:
    data = as_json(MEASURED)
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"]) == set(data)
    for key in data:
        assert faults(SCHEMA, {name: value for name, value in data.items() if name != key}) == [f"$: no {key!r}"]
    assert faults(SCHEMA, {**data, "other": 1}) == ["$: 'other' is not known"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2), ("verdict", "fine"), ("streams", 0), ("events", True), ("races", [1]), ("order_kept", "yes"),
        ("predicted_us", {"serial": 1.0}), ("measured", 3), ("seconds", {"read": "long"}), ("edges", [{"before": 1}]),
    ],
)  # fmt: skip
def test_what_differs_is_found(key: str, value: object) -> None:
    found = faults(SCHEMA, {**as_json(BY_HAND), key: value})
    assert found and all(fault.startswith(f"$.{key}") for fault in found)


def test_entries_of_a_plan_made_by_hand() -> None:
    data = as_json(BY_HAND)
    load, long, short, add, keep = data["regions"]
    assert (long["name"], long["start_us"], long["end_us"], long["alone_us"]) == ("long", 2.0, 8.0, 5.0)
    assert short["waits"] == [{"event": 0, "after": 0, "name": "load", "stream": 0}]
    assert (add["waits"], load["waits"]) == ([{"event": 1, "after": 1, "name": "short", "stream": 1}], [])
    assert (load["bytes_read"], load["bytes_written"], short["beside"]) == (4112, 512, ["long"])
    assert (keep["exclusive"], keep["exclusive_reason"]) == (True, "nothing is declared of it")
    assert data["edges"][2] == {"before": 0, "after": 2, "kind": "WAR", "storage": "arg1"}
    assert (len(data["edges"]), data["critical_path"], data["predicted_us"]["critical_path"]) == (9, [0, 2, 3, 4], 9.0)
