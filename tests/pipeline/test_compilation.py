"""Check what is logged of the stages while a graph is compiled."""

from __future__ import annotations

import logging

import pytest

from graphstreams.pipeline import compilation
from graphstreams.pipeline.compilation import LONG_S, Progress


@pytest.mark.parametrize(("seconds", "level"), [(LONG_S + 2.34, logging.INFO), (LONG_S, logging.DEBUG)])
def test_a_stage_that_takes_long_is_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float, level: int
) -> None:
    clock = iter([0.0, seconds])
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(clock))
    progress = Progress("0_inference")
    with caplog.at_level(logging.DEBUG, "graphstreams"), progress.stage("plan"):
        pass
    monkeypatch.undo()
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, f"graphstreams: 0_inference: plan took {seconds:.1f} s")
    assert progress.report.seconds == {"plan": seconds}
