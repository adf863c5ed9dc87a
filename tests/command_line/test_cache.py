"""Check what the commands that only tell something print: options, cache and the version."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import graphstreams
from graphstreams import Options
from graphstreams.__main__ import main
from graphstreams.inductor.disk_cache import Store
from graphstreams.reports.kept import SUFFIX, keep
from graphstreams.reports.report import Report

REPORTS = "reports on graphs in Inductor's caches"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path / "graphstreams"


def filled(folder: Path) -> Store:
    """Put two plans, a calibration, a report and a file of somebody else's into the folder."""
    store = Store(folder, "gpu")
    store.put("one", 1)
    store.put("two", 22)
    (folder / "calibration").mkdir()
    (folder / "calibration" / "gpu.json").write_text("{}")
    (folder / "notes.txt").write_text("kept")
    keep(Report("g", "serial", graph_key="a"), folder / "reports")
    return store


def test_the_cache_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(folder)
    assert main(["cache", "--show"]) == 0
    expected = [str(folder), "  plans and kernel times: 2, 3 bytes", "  calibrations: 1, 2 bytes"]
    *told, reports = capsys.readouterr().out.splitlines()
    assert told == expected and reports.startswith("  reports on graphs in Inductor's caches: 1, ")


def test_a_cache_is_cleared_but_for_calibrations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(folder)
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: 2 files of plans and kernel times deleted; 1 calibrations, 1 {REPORTS} stay\n"
    assert store.get("one") is None and store.get("two") is None
    assert (folder / "calibration" / "gpu.json").exists() and (folder / "notes.txt").exists()
    assert len([*folder.rglob(f"*{SUFFIX}")]) == 1


@pytest.mark.parametrize("action", ["--show", "--clear"])
def test_a_cache_that_is_not_there_is_empty(folder: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert main(["cache", action]) == 0
    assert "0" in capsys.readouterr().out and not folder.exists()


def test_the_cache_does_nothing_that_was_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["cache"])
    assert "--show --clear" in capsys.readouterr().err


def test_every_option_is_printed_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for field in dataclasses.fields(Options):
        (line,) = [line for line in lines if line.startswith(f"{field.name} ")]
        assert line.split()[1] == repr(field.default)
        assert field.metadata["text"].split()[0] in line
    assert max(map(len, lines)) <= 140
    text = " ".join(lines[-5:])
    assert all(each in text for each in ('"mode"', '"inductor"', "GRAPHSTREAMS_<NAME>", "GRAPHSTREAMS_DISABLE=1"))


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"graphstreams {graphstreams.__version__}\n"
