"""Check on a GPU what is said of a graph on streams, with a mode among the options."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.runtime import verdicts

pytestmark = pytest.mark.gpu


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.arms = nn.ModuleList(nn.Linear(4096, 512) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [arm(x).softmax(-1) for arm in self.arms]


@pytest.mark.parametrize("captured", [True, False])
def test_a_graph_on_streams_is_one_line(
    captured: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_said", [])
    torch._dynamo.reset()
    options: dict[str, Any] = {"min_gain": 0.0, "costs": "roofline", **({"mode": "reduce-overhead"} if captured else {})}
    model = Branches().to("cuda", torch.bfloat16)
    with torch.inference_mode(), caplog.at_level(logging.INFO, "graphstreams"):
        torch.compile(model, backend="graphstreams", options=options)(torch.randn(1, 4096, device="cuda", dtype=torch.bfloat16))
    (verdict,) = graphstreams.reports("Branches")
    line = r"Branches: \S+: \d streams, \S+ us instead of \S+ in a CUDA graph \(predicted\), serial when launched directly; "
    assert verdict.verdict == "clean" and re.match(line, str(verdict)), verdict
    lines = [record for record in caplog.records if record.getMessage().startswith("graphstreams: Branches: ")]
    assert len(lines) == 1
    assert lines[0].levelno == (logging.INFO if captured else logging.WARNING)
    assert lines[0].getMessage().endswith(verdicts.CAPTURE_IT) is not captured
