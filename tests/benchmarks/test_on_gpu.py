"""Check that benchmarks say so if they lack a GPU or a function of the user's."""

from __future__ import annotations

from types import ModuleType

import pytest
import search_depth
import torch

from tests.support.paths import EXAMPLES


@pytest.mark.parametrize("benchmark", [search_depth])
def test_what_is_missing_is_told(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(EXAMPLES / "deepseek_v32.py")
    assert benchmark.main([f"{place}:nothing"]) == 2
    assert "has no function 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main([f"{place}:bench"]) == 2
    assert "there is none here" in capsys.readouterr().err
