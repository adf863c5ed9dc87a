"""Check that the table of a report's files is what is written."""

from graphstreams.reports import report as files
from graphstreams.reports.report import Report


def test_a_line_in_the_table_is_a_file_unless_it_is_empty(tmp_path, monkeypatch):
    table = {"verdict.txt": lambda report: f"{report.name}: {report.verdict}", "nothing.txt": lambda report: ""}
    monkeypatch.setattr(files, "FILES", table)
    folder = Report("g", "serial").save(tmp_path / "new" / "folder")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"verdict.txt": "g: serial"}
