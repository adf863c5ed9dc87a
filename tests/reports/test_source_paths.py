"""Check that readable code names source files without what tells of the machine, and that reports hold no such path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from graphstreams.reports.report import FILES
from graphstreams.reports.source_paths import short_path, with_short_paths
from tests.support.sample_modules import captured

FOLDERS = ("/home/anna/project", "/home/anna/lib", "/usr/lib/python3.12")


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/home/anna/project/models/layer.py", "models/layer.py"),
        ("/home/anna/project/.venv/lib/python3.12/site-packages/torch/nn/functional.py", "torch/nn/functional.py"),
        ("/usr/lib/python3/dist-packages/einops/core.py", "einops/core.py"),
        ("/usr/lib/python3.12/contextlib.py", "contextlib.py"),
        ("/home/anna/library/deep/er/layer.py", ".../er/layer.py"),  # beside a folder whose name it begins with
        ("/home/anna/layer.py", ".../layer.py"),
        ("/root/layer.py", ".../layer.py"),
        ("/layer.py", ".../layer.py"),
        ("/", "..."),
        ("models/layer.py", "models/layer.py"),
        ("<eval_with_key>.12", "<eval_with_key>.12"),
        ("/srv/site-packages", ".../srv/site-packages"),
    ],
)
def test_a_path_is_what_who_wrote_the_file_knows(path: str, short: str) -> None:
    assert short_path(path, FOLDERS) == short


def test_by_default_the_current_folder_counts_first_and_the_root_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = str(tmp_path / "examples" / "layer.py")
    monkeypatch.setattr(sys, "path", ["", "relative", str(tmp_path / "examples"), str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    assert short_path(file) == "examples/layer.py"
    monkeypatch.chdir("/")
    assert short_path(file) == "layer.py"
    monkeypatch.setattr(sys, "path", ["/"])
    assert short_path(file) == ".../examples/layer.py"


def test_without_a_current_folder_those_of_imports_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    monkeypatch.setattr(sys, "path", ["/home/anna/lib"])
    assert short_path("/home/anna/lib/layer.py") == "layer.py"


def test_only_comments_that_name_a_line_of_source_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/home/anna/lib"])
    code = """
        # File: /home/anna/lib/m.py:93 in forward, code: open("/home/anna/lib/x.py:1 in")
        # Annotation: {'stream': 1} File: /home/anna/lib/my models/m.py:9 in f, code: y
        a = torch.ops.lib.load.default("/home/anna/lib/m.py:93 in ")
"""
    assert with_short_paths(code) == code.replace("File: /home/anna/lib/", "File: ")


def test_no_file_of_a_report_names_a_folder_of_this_machine_but_the_wrapper() -> None:
    """The wrapper is Inductor's text: comments of its own name the files that its kernels were compiled from."""
    report = captured("diamond").report
    assert "# File: tests/support/sample_modules.py:" in report.graph_streams
    folders = {str(Path(folder).resolve()) for folder in (Path.cwd(), Path.home(), sys.prefix)} - {"/"}
    for name, text_of in FILES.items():
        if name != "wrapper.py":
            text = text_of(report)
            assert text and not [folder for folder in folders if folder in text], name
