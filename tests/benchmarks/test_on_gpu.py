"""Benchmarks that need a GPU and a function of the user's say so where one is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import search_depth


@pytest.mark.parametrize("benchmark", [search_depth])
def test_what_is_missing_is_told(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(ROOT / "examples" / "deepseek_v32.py")
    assert benchmark.main([f"{place}:nothing"]) == 2
    assert "has no function 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main([f"{place}:bench"]) == 2
    assert "there is none here" in capsys.readouterr().err
