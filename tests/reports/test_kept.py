"""Check that a report comes back whole from where it is kept, and that what can't be read is none."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphstreams.autotuning.cache_keys import graph_key
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.options import Options
from graphstreams.reports.kept import SUFFIX, keep, kept
from graphstreams.reports.report import FILES, Report
from tests.support.sample_modules import captured

WHOLE = replace(captured("diamond").report, graph_key="a", measurement=Measurement(10.0, plans=((9.0, 8.5),)))


def key_of(report: Report) -> str:
    return report.as_verdict().report_key


@pytest.mark.parametrize("report", [WHOLE, Report("g", "serial", "it has one kernel", "plan", graph_key="a")])
def test_a_report_comes_back_whole(report: Report, tmp_path: Path) -> None:
    keep(report, tmp_path / "deep")
    found = kept(key_of(report), tmp_path / "deep")
    assert found == report
    assert all(text_of(found) == text_of(report) for text_of in FILES.values())


def test_graphs_and_verdicts_that_differ_have_other_keys() -> None:
    clean = Report("g", "clean", graph_key="a")
    others = [replace(clean, graph_key="b"), replace(clean, name="h"), replace(clean, direct=True)]
    assert len({key_of(report) for report in (clean, *others)}) == 4
    assert key_of(clean) == key_of(replace(clean, notes=("a note",), seconds={"read": 1.0}, from_cache=True))


def test_what_was_asked_and_the_plan_are_part_of_the_key_and_a_dump_is_not() -> None:
    asked = [
        graph_key("code", ["x"], Options()),
        graph_key("code", ["x"], Options(pin={"wa": 1, "wb": 2})),  # type: ignore[arg-type]
        graph_key("code", ["x"], Options(pin={"wa": 2, "wb": 1})),  # type: ignore[arg-type]
        graph_key("code", ["x"], Options(), [MarkedModule("L['self'].wa", 1)]),
    ]
    assert len(set(asked)) == 4 and graph_key("code", ["x"], Options(dump="reports")) == asked[0]
    assert WHOLE.plan is not None
    mirrored = tuple(replace(place, stream=WHOLE.plan.streams - 1 - place.stream) for place in WHOLE.plan.placements)
    assert key_of(replace(WHOLE, plan=replace(WHOLE.plan, placements=mirrored))) != key_of(WHOLE)


@pytest.mark.parametrize("fields", [{"plan": 3}, {"threshold": 3}, {"name": None}])
def test_a_report_with_other_fields_is_none(fields: dict[str, Any], tmp_path: Path) -> None:
    keep(WHOLE, tmp_path)
    (file,) = tmp_path.rglob(f"*{SUFFIX}")
    file.write_bytes(zlib.compress(pickle.dumps(replace(WHOLE, **fields))))
    assert kept(key_of(WHOLE), tmp_path) is None


def test_a_report_that_lacks_fields_is_none(tmp_path: Path) -> None:
    keep(WHOLE, tmp_path)
    (file,) = tmp_path.rglob(f"*{SUFFIX}")
    older = replace(WHOLE)
    del older.__dict__["verdict"]
    file.write_bytes(zlib.compress(pickle.dumps(older)))
    assert kept(key_of(WHOLE), tmp_path) is None


def test_a_report_on_a_graph_that_no_cache_can_hold_is_not_kept(tmp_path: Path) -> None:
    keep(Report("g", "serial"), tmp_path)
    assert list(tmp_path.iterdir()) == [] and kept("", tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"no zlib", zlib.compress(b"no pickle"), zlib.compress(pickle.dumps("no report")),
                zlib.compress(pickle.dumps(Report("another", "serial", graph_key="a")))],
)  # fmt: skip
def test_what_is_no_report_on_the_graph_is_none(content: bytes, tmp_path: Path) -> None:
    keep(WHOLE, tmp_path)
    (file,) = tmp_path.rglob(f"*{SUFFIX}")
    file.write_bytes(content)
    assert kept(key_of(WHOLE), tmp_path) is None
