"""Check that another process multiplies matrices with the precision of this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphstreams.autotuning.matmul_precision import REDUCTIONS, precisions, set_precisions
from tests.support.sample_modules import captured, reading_of, serial_code

SETTINGS = ("fp32_precision", "allow_fp16_accumulation", *REDUCTIONS)


@pytest.fixture
def own_precisions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Precisions are this test's own: what it sets is taken back."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    before, matmul = precisions(), torch.backends.cuda.matmul
    yield
    matmul.fp32_precision = "none"  # before torch is asked what does not go with another value
    set_precisions(before)
    assert precisions() == before and all(hasattr(matmul, name) for name in SETTINGS)


def job_of(sample: str) -> dict[str, Any]:
    plan = captured(sample).report.plan
    assert plan is not None
    return serial_code(reading_of(sample)).job(plan)


def set_anew() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def set_as_ever() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_accumulation = True


@pytest.mark.usefixtures("own_precisions")
@pytest.mark.parametrize("settings", [set_anew, set_as_ever, lambda: None], ids=["anew", "as ever", "default"])
def test_another_process_allows_what_this_one_does(settings: Any) -> None:
    start, matmul = precisions(), torch.backends.cuda.matmul
    settings()
    job, here = job_of("diamond"), {name: getattr(matmul, name) for name in SETTINGS}
    matmul.fp32_precision = "none"
    set_precisions(start)
    set_precisions(json.loads(json.dumps(job["precisions"])))
    assert {name: getattr(matmul, name) for name in SETTINGS} == here
    assert precisions() == job["precisions"]


@pytest.mark.usefixtures("own_precisions")
def test_precisions_set_by_the_newer_attributes_alone_are_read() -> None:
    set_anew()
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    assert job_of("diamond")["precisions"]["fp32_precision"] == "tf32"
