"""Check the documents: links, paths and names in them exist, options and report keys are all told, and snippets compile."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graphstreams
from graphstreams.options import Options
from graphstreams.reports.report import FILES, Report
from tests.support.fork_server import run_forked

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "graphstreams"
RESULTS = ROOT / "benchmarks" / "results"
FOLDERS_OF_DOCUMENTS = ("docs", "benchmarks", "examples")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for name in FOLDERS_OF_DOCUMENTS for path in (ROOT / name).rglob("*.md"))])
LIVING = [path for path in DOCUMENTS if path.parent.parent != RESULTS]  # a result names files and commands of its day
FOLDERS = {path.name for path in (*ROOT.iterdir(), *PACKAGE.iterdir()) if path.is_dir() and not path.name.startswith(".")}
GONE = {"benchmarks/host_cost.py", "graphstreams.bench.compare"}  # told as history in the changelog


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(path: Path) -> str:
    """Return the text of a document without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))


def _spans(path: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", _prose(path))


def _paths(path: Path) -> Iterator[str]:
    """Yield what looks like a path of this repository in a document's code spans, in commands too."""
    for word in (word for span in _spans(path) for word in span.split()):
        found = re.fullmatch(r"([\w-]+/[\w./-]*?)(?:::?\w+)?", word)
        if found and found[1].split("/")[0] in FOLDERS:
            yield found[1]


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", _prose(path))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _rows(path: Path) -> list[list[str]]:
    """Return the cells of each row of a document's tables."""
    lines = [line for line in _prose(path).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _value(cell: str) -> Any:
    text = cell.strip("`")
    return {"none": None, "false": False}[text] if text in ("none", "false") else ast.literal_eval(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if not link.startswith("https://"):
            place, _, anchor = link.partition("#")
            target = (path.parent / place).resolve() if place else path
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("path", LIVING, ids=_name)
def test_paths_exist(path: Path) -> None:
    missing = [name for name in _paths(path) if not (ROOT / name).exists() and not (PACKAGE / name).exists()]
    assert not set(missing) - GONE


@pytest.mark.parametrize("path", LIVING, ids=_name)
def test_names_of_the_package_exist(path: Path) -> None:
    for span in _spans(path):
        found = re.fullmatch(r"(graphstreams(?:\.\w+)+)(\(.*\))?", span)
        if found and found[1] not in GONE:
            assert _resolve(found[1]) is not None, span


def _resolve(dotted: str) -> Any:
    """Return what a dotted name stands for. Raises AttributeError if there is no such thing."""
    value: Any = graphstreams
    for place, part in enumerate(dotted.split(".")[1:], 2):
        if not hasattr(value, part):
            importlib.import_module(".".join(dotted.split(".")[:place]))
        value = getattr(value, part)
    return value


def test_files_that_depend_on_torchs_internals_exist() -> None:
    for heading, body in re.findall(r"(?ms)^## .*?`(graphstreams/\w+/)`\n(.*?)(?=^## |\Z)", _told("torch-internals.md")):
        for row in re.findall(r"(?m)^\| (`.*?) \|", body):
            for name in re.findall(r"`([^`]+)`", row):
                assert (ROOT / heading / name).exists(), f"{heading}{name}"


def _told(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "docs" / "options.md"], ids=_name)
def test_options_are_told_with_their_defaults(document: Path) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    told = {row[0].strip("`"): row[1] for row in _rows(document) if row[0].strip("`") in defaults}
    assert {name: _value(cell) for name, cell in told.items()} == {name: defaults[name] for name in told}
    assert document.name == "README.md" or told.keys() == defaults.keys()


def test_the_keys_and_files_of_a_report_are_told() -> None:
    first = " ".join(row[0] for row in _rows(ROOT / "docs" / "reports.md"))
    assert {*Report("graph", "serial").as_dict(), *FILES} <= set(re.findall(r"`([\w.]+)`", first))


@pytest.mark.parametrize("path", LIVING, ids=_name)
def test_python_in_documents_compiles(path: Path) -> None:
    for number, code in enumerate(re.findall(r"(?ms)^```python\n(.*?)^```$", path.read_text(encoding="utf-8")), 1):
        compile(code, f"{_name(path)}, snippet {number}", "exec")


RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def test_the_quick_start_runs_as_it_is_and_prints_one_line_for_its_graph(tmp_path: Path) -> None:
    first = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"))[0]
    file = tmp_path / "quick_start.py"
    file.write_text(first)
    for cached in (False, True):
        done = run_forked(RUN, str(file), more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        if torch.cuda.is_available():
            assert re.match(r"Branches: \S+(: \d streams, | runs serially: )", line), line
        else:
            assert re.match(r"Branches: \S+ runs serially: read: it has no CUDA tensors", line), line
            assert sum("graphstreams: Branches: " in each for each in done.stderr.splitlines()) == 1, cached


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"(?m)^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert versions[0] == graphstreams.__version__
