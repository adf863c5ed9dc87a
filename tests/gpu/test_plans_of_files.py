"""Check on a GPU that a plan which was kept runs again, edited or not, with serial's bits, and that a race never does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.runtime import verdicts

pytestmark = pytest.mark.gpu

Kernels = list[dict[str, Any]]


class Diamond(nn.Module):
    """A product, three products of its result, and one of their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Linear(2048, 2048, bias=False) for _ in range(2))
        self.arms = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        a, b, c = (arm(y) for arm in self.arms)
        return self.last(a.relu() + b.sigmoid() + c.tanh())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Diamond().to("cuda", torch.bfloat16)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "_said", [])


def replayed(model: nn.Module, **options: Any) -> list[Tensor]:
    """Return what a few replays of the compiled model's CUDA graph give."""
    torch._dynamo.reset()
    x = torch.linspace(-1, 1, 2048, device="cuda", dtype=torch.bfloat16).reshape(1, 2048)
    compiled = torch.compile(model, backend="graphstreams", options={"min_gain": 0.0, "deterministic": True, **options})
    with torch.inference_mode(), torch._inductor.config.patch(force_disable_caches=True):
        compiled(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = compiled(x)
        found = []
        for _ in range(5):
            graph.replay()
            found.append(result.clone())
    return found


def kept(model: nn.Module, folder: Path) -> Path:
    replayed(model, dump=str(folder))
    (file,) = folder.rglob("plan.json")
    return file


def edited(file: Path, folder: Path, edit: Callable[[Kernels], None]) -> Path:
    data = json.loads(file.read_text())
    edit(data["kernels"])
    data["runs"] = "streams"
    (other := folder / "edited.json").write_text(json.dumps(data))
    return other


def test_a_plan_that_was_kept_and_an_edited_one_run_with_serials_bits(model: nn.Module, tmp_path: Path) -> None:
    serial = replayed(model, streams=1)[0]
    file = kept(model, tmp_path / "dump")

    def exchange(kernels: Kernels) -> None:
        one, other = (kernel for kernel in kernels if kernel["name"] in ("arms.0", "arms.1"))
        one["stream"], other["stream"] = 1, 2
        for kernel in kernels:
            del kernel["waits"]

    for costs in ("auto", "roofline"):
        for given in (file, edited(file, tmp_path, exchange)):
            verdicts._said.clear()
            for result in replayed(model, plan=str(given), costs=costs):
                assert torch.equal(result, serial)
            (verdict,) = graphstreams.reports()
            assert verdict.verdict == "serial" or verdict.plan_file == str(given)
            assert given == file or verdict.verdict == "clean"


def test_a_racy_plan_never_runs(model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = kept(model, tmp_path / "dump")

    def racy(kernels: Kernels) -> None:
        for kernel in kernels:
            kernel["stream"], kernel["waits"] = (1 if kernel["name"] == "arms.1" else 0), []

    with caplog.at_level(logging.WARNING, "graphstreams"):
        replayed(model, plan=str(edited(file, tmp_path, racy)))
    assert any("kernel 'arms.1' (stream 1) is not ordered after kernel 'first'" in message for message in caplog.messages)
    assert graphstreams.reports()[0].plan_file == ""


def test_pins_hold_on_the_gpu(model: nn.Module, tmp_path: Path) -> None:
    serial = replayed(model, streams=1)[0]
    for result in replayed(model, pin={"arms.0": 3}, exclude=["arms.1"], dump=str(tmp_path)):
        assert torch.equal(result, serial)
    (report,) = (json.loads(path.read_text()) for path in tmp_path.rglob("report.json"))
    streams = {region["name"]: region["stream"] for region in report["regions"]}
    assert (streams["arms.0"], streams["arms.1"]) == (3, 0)
