"""Check that each wrapper that a StreamPass has seen carries its verdict, and tells it when a cache gives it back."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from graphstreams.runtime import verdicts
from graphstreams.verification.wrapper.read import read_bodies, verify
from tests.support.sample_modules import compiled_by_pass


def told(source: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the lines of a wrapper log in a process that has not compiled the graph."""
    (line,) = re.findall(rf"^{verdicts.NAME} = .*$", source, re.MULTILINE)
    assert source.index(verdicts.IMPORT) < source.index(line) < source.index(f"_announce({verdicts.NAME})")
    caplog.clear()
    with caplog.at_level(logging.INFO, "graphstreams"):
        exec("\n".join([verdicts.IMPORT, line, f"_announce({verdicts.NAME})"]), {})
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("sample", "options"), [("diamond", {"min_gain": 0.9}), ("diamond", {"max_tokens": 1}), ("norms", {"streams": 1})]
)
def test_a_serial_wrapper_tells_from_a_cache_why_it_is_serial(
    sample: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report, lowered, serial = compiled_by_pass(sample, **options)
    assert report.verdict == "serial" and report.reason
    source = lowered.source
    assert told(source, caplog) == []  # this process knows
    monkeypatch.setattr(verdicts, "_told", verdicts._Told())
    monkeypatch.setattr(verdicts, "_known", set())
    line = f"graphstreams: {report.name} runs serially: {report.stage}: {report.reason} (from a cache)"
    assert told(source, caplog) == [line]
    added = [line for line in source.splitlines() if line not in serial.splitlines()]
    assert [line.split(" ")[0] for line in added if not line.startswith("#")] == [
        "from",
        "GRAPHSTREAMS",
        "_announce(GRAPHSTREAMS)",
    ]
    assert len(read_bodies(source)) == 1 and verify(source) == []


def test_a_wrapper_with_two_bodies_tells_its_times(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    report, lowered, _ = compiled_by_pass("three_arms")
    assert report.verdict == "clean", report.reason
    assert told(lowered.source, caplog) == []
    monkeypatch.setattr(verdicts, "_told", verdicts._Told())
    monkeypatch.setattr(verdicts, "_known", set())
    verdict = report.as_verdict()
    assert verdict.streams == 3 and verdict.speedup > 1
    (line,) = told(lowered.source, caplog)
    times = f"{verdict.streamed_us:.1f} us instead of {verdict.serial_us:.1f} in a CUDA graph (predicted)"
    assert line.startswith(f"graphstreams: {report.name}: 3 streams, {times}, serial when launched directly; ")
    launches = f"{report.kernels_streamed} launches, serial {report.kernels_serial}"
    assert f"{launches} (from a cache); {verdicts.CAPTURE_IT}" in line


def test_reasons_with_quotes_and_line_ends_stay_one_line() -> None:
    verdict = verdicts.Verdict("g", "serial", "read", 'it\'s "odd"\nand \\ long')
    lines = verdict.lines
    assert all("\n" not in line for line in lines)
    values: dict[str, Any] = {}
    exec(lines[1], values)
    assert verdicts.Verdict(**json.loads(values[verdicts.NAME])) == verdict
