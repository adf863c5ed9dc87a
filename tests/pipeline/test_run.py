"""Check what the stages decide from options that bound memory and set priorities."""

from __future__ import annotations

import pytest

from graphstreams.inductor.lowering import peak_memory
from graphstreams.pipeline import streamed_body
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS, module_and_inputs


def planned(sample: str, **options: object) -> GraphCompilation:
    (outcome,) = capture(*module_and_inputs(sample), "h200", {**FREE_EVENTS, **options})
    return outcome


def test_the_report_has_both_peaks() -> None:
    report = planned("diamond").report
    assert report.verdict == "clean"
    assert 0 < report.memory_serial <= report.memory_streamed
    assert report.as_dict()["peak_memory_bytes"] == {"serial": report.memory_serial, "streamed": report.memory_streamed}


def test_a_plan_that_needs_more_memory_than_allowed_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_body, "ALLOWED_MEMORY", 2**20)
    monkeypatch.setattr(streamed_body, "peak_memory", lambda lowered, _: peak_memory(lowered) + 5 * 2**20)
    report = planned("diamond").report
    assert (report.verdict, report.stage) == ("serial", "verify")
    assert report.reason.endswith(" for 'diamond.mul' and more is alive at once; 1 MiB are allowed")


def test_a_share_of_the_serial_peak_is_allowed_where_it_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_body, "ALLOWED_MEMORY", 0)
    monkeypatch.setattr(streamed_body, "peak_memory", lambda lowered, _: 2 * peak_memory(lowered))
    assert planned("diamond", max_extra_memory=100.0).report.verdict == "clean"
    assert planned("diamond", max_extra_memory=0.0).report.verdict == "serial"


def test_inputs_and_weights_are_part_of_what_a_share_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = module_and_inputs("diamond")
    held = sum(value.nbytes for value in (*module.parameters(), *inputs))
    first = planned("diamond")
    assert first.reading is not None and first.reading.held_memory == held
    monkeypatch.setattr(streamed_body, "ALLOWED_MEMORY", 0)
    monkeypatch.setattr(streamed_body, "peak_memory", lambda lowered, _: first.report.memory_serial + held // 2)
    assert planned("diamond", max_extra_memory=0.5).report.verdict == "clean"
    assert planned("diamond", max_extra_memory=0.1).report.verdict == "serial"


def test_a_priority_reaches_the_wrapper_and_the_proof() -> None:
    report = planned("diamond", priority=-1).report
    assert report.verdict == "clean"
    assert ", -1)" in next(line for line in report.wrapper.splitlines() if "_acquire_streams(" in line)
