"""Check part of the table of misaligned inputs: whatever runs has serial's bits, or serial fails too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import BENCHMARKS, ROOT

pytestmark = pytest.mark.gpu

KINDS = ["read on several streams", "read by one kernel", "passed through", "cache write"]


def test_misaligned_inputs_have_serials_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "alignment.py"), "--out", str(tmp_path), "--kinds", *KINDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (tmp_path / "alignment.json").exists(), done.stderr
    cells = json.loads((tmp_path / "alignment.json").read_text())["cells"]
    assert done.returncode == 0, [cell for cell in cells if cell["status"] != "equal"]
    said = {cell["told"] for cell in cells if cell["way"] == "direct"}
    assert any(re.search(r"\d streams, ", text) for text in said), f"nothing ran on streams: {said}"
