"""Check what is logged of the stages while a graph is compiled."""

from __future__ import annotations

import ast
import logging
import threading
from pathlib import Path

import pytest

from graphstreams.pipeline import compilation
from graphstreams.pipeline.compilation import DOES, LONG_S, Progress


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


class Heard(logging.Handler):
    """Keep the lines of the log, and tell once there are enough."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.enough, self._count = threading.Event(), enough

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if len(self.lines) == self._count:
            self.enough.set()


def test_a_stage_that_takes_long_is_told_while_it_runs_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "LONG_S", 0.0)
    monkeypatch.setattr(compilation, "REPEAT_S", 0.01)
    heard, log = Heard(enough=3), logging.getLogger("graphstreams")
    log.addHandler(heard)
    try:
        with caplog.at_level(logging.INFO, "graphstreams"), Progress("0_inference").stage("plan"):
            assert heard.enough.wait(60), heard.lines
    finally:
        log.removeHandler(heard)
    *during, after = heard.lines
    assert during[0] == "graphstreams: 0_inference: plan has taken 0 s so far: it tries plans"
    assert {line.partition("far: ")[2] for line in during} == {"it tries plans"}
    assert after.startswith("graphstreams: 0_inference: plan took ")
    assert not [thread for thread in threading.enumerate() if thread.name == "graphstreams progress"]


@pytest.mark.parametrize("error", [None, ValueError("why")])
def test_a_stage_that_ends_soon_leaves_nothing_behind(caplog: pytest.LogCaptureFixture, error: Exception | None) -> None:
    progress = Progress("0_inference")
    with caplog.at_level(logging.INFO, "graphstreams"), progress.until_stopped(), progress.stage("plan"):
        if error is not None:
            raise error
    assert caplog.messages == [] and threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if thread.name == "graphstreams progress"]
    assert progress.report.reason == ("" if error is None else "ValueError: why")


def test_a_log_that_shows_no_progress_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.threading, "Thread", None)
    with Progress("0_inference").stage("plan"):
        assert not logging.getLogger("graphstreams").isEnabledFor(logging.INFO)


def test_each_stage_of_the_recipe_says_what_it_does() -> None:
    recipe = ast.parse((Path(compilation.__file__).parent / "run.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(recipe) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    names = {ast.literal_eval(call.args[0]) for call in calls if call.func.attr == "stage"}  # type: ignore[attr-defined]
    assert names == set(DOES)
