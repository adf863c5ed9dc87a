"""Check who takes part if a setting is on, and what the table says. Times and modules are synthetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_settings
import pytest
import torch
from own_settings import against_the_faster, failing, table, variants

from graphstreams.benchmark import timing
from tests.support.benchmark_on_cpu import CpuVariant


def result(*us: float | None) -> dict[str, Any]:
    """Serial, streams, serial and streams with the setting; None: it failed."""
    names = ("serial", "graphstreams", "serial: combo_kernels", "graphstreams: combo_kernels")
    rivals = {
        name: {"graph": {"median": time}} if time else {"failed": "ValueError: no"}
        for name, time in zip(names, us, strict=True)
    }
    return {"workload": "w", "settings": ["combo_kernels"], "left_out": [], "rivals": rivals}


@pytest.mark.parametrize(("us", "ratio", "fails"), [
    ((130.0, 114.0, 125.0, 113.0), 114 / 113, False),  # as fast as streams alone
    ((130.0, 120.0, 110.0, 110.5), 110 / 110.5, False),  # as fast as the setting alone, but for noise
    ((130.0, 114.0, 125.0, 125.0), 114 / 125, True),  # streams are lost by the setting
    ((130.0, 114.0, 125.0, None), None, True),
    ((130.0, 114.0, None, None), None, False),  # serial fails too
])  # fmt: skip
def test_with_a_setting_on_it_has_to_match_the_faster(us: tuple[float | None, ...], ratio: float | None, fails: bool) -> None:
    found = result(*us)
    assert against_the_faster(found, "combo_kernels") == (pytest.approx(ratio) if ratio else None)
    assert failing(found) == (["combo_kernels"] if fails else [])


def test_the_table_has_all_four_times_and_what_failed() -> None:
    text = table(result(130.0, 114.0, 125.0, None))
    assert "| combo_kernels | 130.0       | 125.0         | 114.0     | -" in text
    assert "graphstreams: combo_kernels: ValueError: no" in text


def test_sides_without_a_setting_come_first_and_settings_are_added_to_the_base() -> None:
    found = variants(["memory_planning"], {"deterministic": True})
    assert list(found) == ["serial", "graphstreams", "serial: memory_planning", "graphstreams: memory_planning"]
    assert found["graphstreams: memory_planning"] == ("graphstreams", {"deterministic": True, "memory_planning": True})


def test_every_setting_is_one_of_inductors() -> None:
    for settings in own_settings.SETTINGS.values():
        with torch._inductor.config.patch(dict(settings)):
            pass


def test_the_whole_course_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(module: Any, backend: Any = "inductor", options: Any = None) -> Callable[..., Any]:
        if backend != "inductor":
            folder = Path(options["dump"]) / "0_inference"
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps({"verdict": "clean", "reason": "", "kernels_serial": 4}))
        if (options.get("inductor") or options).get("memory_planning"):
            raise ValueError("not with this module")
        return module  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(own_settings, "CompiledVariant", CpuVariant)
    monkeypatch.setattr(own_settings, "environment", lambda: {"device": "?"})
    monkeypatch.setattr(own_settings, "release", lambda: None)
    monkeypatch.setattr(own_settings, "made", lambda _: (torch.nn.Linear(4, 4), lambda seed: [torch.full((2, 4), float(seed))]))
    monkeypatch.setattr(
        timing, "times_in_turns", lambda functions, rounds, *_: [[10.0 + i] * rounds for i in range(len(functions))]
    )
    settings = ["--settings", "combo_kernels", "memory_planning"]
    assert own_settings.main([*settings, "--rounds", "5", "--out", str(tmp_path)]) == 1  # ours with combos has 13, streams 11
    found = json.loads((tmp_path / "own_settings.json").read_text())
    assert found["rivals"]["serial: memory_planning"]["failed"] == "ValueError: not with this module"
    assert failing(found) == ["combo_kernels"]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_settings.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
