"""Check the check of the package's imports, on packages written for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a package of four modules in place of this one: errors, planning, inductor, pipeline."""
    spec = importlib.util.spec_from_file_location("imports_script", ROOT / "scripts" / "imports.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "PACKAGE", tmp_path)
    monkeypatch.setattr(script.sys, "argv", ["imports.py", "--check"])
    write(tmp_path, "errors.py", "")
    write(tmp_path, "inductor/lowering.py", "import torch._inductor.config\nfrom graphstreams.errors import Unsupported")
    write(tmp_path, "planning/paths.py", "from graphstreams.errors import Unsupported")
    write(tmp_path, "pipeline/run.py", "from graphstreams.planning import paths\nfrom graphstreams.inductor import lowering")
    return script


def write(package: Path, name: str, text: str) -> None:
    path = package / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_this_package_keeps_the_rule() -> None:
    spec = importlib.util.spec_from_file_location("imports_script", ROOT / "scripts" / "imports.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    _, wrong = script.arrows()
    assert wrong == []


def test_floors_are_printed_from_the_top(imports: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert imports.main() == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:3]]
    assert lines == [["3", "pipeline"], ["2", "inductor, planning"], ["1", "errors"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from graphstreams.pipeline import run", "planning imports pipeline, which is above it"),
        ("from graphstreams.pipeline import run", "in a circle"),
        ("def f():\n    from torch._inductor import config", "planning/costs.py uses torch._inductor.config"),
        ("import torch\ntorch._dynamo.reset()", "planning/costs.py uses torch._dynamo"),
    ],
)
def test_what_breaks_the_rule_is_told_and_fails(
    imports: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    write(tmp_path, "planning/costs.py", text)
    assert imports.main() == 1
    assert said in capsys.readouterr().out
