"""Check that processes keep their reports apart, and that a folder holds one report only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from graphstreams.reports.folder import MARK, folder_for
from graphstreams.reports.report import FILES, Report


def test_a_process_keeps_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "0_inference"
    assert folder_for(folder, "key") == folder_for(folder, "key") == folder
    assert (folder / MARK).read_text() == f"{socket.gethostname()} {os.getpid()} key"


def test_another_graph_of_the_process_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Caches may hold graphs of several processes that have one name; of graphs without a key none is known to be another's."""
    folder = tmp_path / "0_inference"
    places = [folder_for(folder, key).name for key in ("one", "two", "one", "", "")]
    assert places == ["0_inference", "0_inference.2", "0_inference", "0_inference.3", "0_inference.4"]


def test_another_process_that_runs_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """The parent of this process runs."""
    folder = tmp_path / "0_inference"
    folder.mkdir()
    (folder / MARK).write_text(f"{socket.gethostname()} {os.getppid()}")
    own = folder_for(folder, "key")
    assert own == tmp_path / f"0_inference.process{os.getpid()}"
    assert own.is_dir() and folder_for(folder, "key") == own
    assert folder_for(folder, "other").name == "0_inference.2"


def test_what_a_process_left_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    for process in (ended.stdout.strip(), f"{ended.stdout.strip()} key", "x", ""):
        (tmp_path / MARK).write_text(f"{socket.gethostname()} {process}")
        assert folder_for(tmp_path) == tmp_path


def test_a_process_of_another_host_counts_as_running(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    (folder / MARK).write_text("another-host.example 1")
    assert folder_for(folder) != folder


def test_what_an_earlier_report_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (*FILES, "mine.txt"):
        (tmp_path / name).write_text("old")
    Report("g", "serial", "it has one kernel").save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html", "mine.txt"}
    assert (tmp_path / "mine.txt").read_text() == "old"
    assert "it has one kernel" in (tmp_path / "report.json").read_text()
