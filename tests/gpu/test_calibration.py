"""Check that the calibration run on a real GPU is quick, and that its fit predicts what was timed."""

import time
from pathlib import Path

import pytest
import torch

from graphstreams.__main__ import main
from graphstreams.costs.calibration import Calibration
from graphstreams.costs.work import ROLES

pytestmark = pytest.mark.gpu


def test_a_run_is_quick_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    status = main(["bench", "--calibrate", "--out", str(tmp_path / "found.json")])
    taken = time.perf_counter() - started
    printed = capsys.readouterr()
    print(f"{printed.out}\n{printed.err}{taken:.1f} s")
    assert status == 0 and "not timed" not in printed.err
    assert taken < 90
    found = Calibration.load(tmp_path / "found.json")
    assert found.device == torch.cuda.get_device_name()
    assert found.kernels >= 100
    assert found.error < 0.35
    undecided = set(found.undecided)
    decided = {f"latency.{role}" for role in ROLES} | {f"flops_share.{role}" for role in ("gemm", "float32", "attention")}
    decided |= {"inner_us.gemm", "bandwidth_share.gemm", "bandwidth_share.other", "copy_us", "narrow_us", "grouped_us"}
    assert not {*decided, "serial.topk.0"} & undecided
