"""Check the course, the faults and the table of `diffusers_steps`, and which blocks are planned, on a synthetic model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import lane
from benchmarks.engines import denoising_blocks, diffusers_steps, diffusers_worker
from benchmarks.engines.diffusers_models import Denoiser, Values
from benchmarks.engines.diffusers_steps import fault, rows, table
from benchmarks.engines.generate_table import AGAIN, OURS, PLAIN, ratios


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.arms = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.arms[0](x).relu() * self.arms[1](x).sigmoid()


class Net(nn.Module):
    """Names no blocks, as some models of diffusers."""

    _repeated_blocks: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.narrow = Block(8), Block(8), Block(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.narrow(x[:, :4]), self.second(self.first(x), scale=0.5)[:, 4:]], 1)

    def compile_repeated_blocks(self, **how: Any) -> None:
        for block in self.modules():
            if type(block).__name__ in self._repeated_blocks:
                block.compile(**how)


def synthetic(name: str = "sd3", device: str = "cpu", tiny: bool = True) -> Denoiser:
    torch.manual_seed(0)

    def inputs(batch: int) -> Values:
        return {"sample": torch.randn(batch, 8), "bias": torch.randn(batch, 8)}

    def step(net: nn.Module, sample: Tensor, bias: Tensor) -> Any:
        return net(sample) + bias

    return Denoiser({"net": Net().requires_grad_(False).to(device)}, inputs, step, {"net": ("Block",)})


class InThisProcess:
    """Stands in for a worker's process. What it is told to print is beside what it dumps."""

    def __init__(self, command: Any, environment: Any, log: Path) -> None:
        self.folder = log.parent

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        with torch.inference_mode():
            if request["do"] == "prepare":
                self.model = diffusers_worker.Model(request, self.folder)
                return {}
            return self.model.measure(request["mode"], request["batch"])

    def close(self) -> None:
        pass


def test_the_whole_course_with_a_synthetic_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusers_worker, "build", synthetic)
    monkeypatch.setattr(diffusers_worker, "short_reports", lambda _: [])
    monkeypatch.setattr(lane, "Worker", InThisProcess)
    monkeypatch.setenv("GRAPHSTREAMS_DUMP", str(tmp_path))
    words = ["--device", "cpu", "--tiny", "--models", "sd3", "--modes", "default", "--out", str(tmp_path)]
    torch._dynamo.reset()
    status = diffusers_steps.main(words)
    records = json.loads((tmp_path / "diffusers.json").read_text())["records"]
    assert status in (0, 1) and [record["batch"] for record in records] == [1, 2]  # the times are real
    for record in records:
        assert record["images"] == {"launched by the host": {"equal": 4, "of": 4, "difference": 0.0}}
        assert {PLAIN, OURS, AGAIN, "ratio", "control"} <= record["ways"]["launched by the host"].keys()
    assert (tmp_path / "diffusers.md").read_text().count("| sd3") == 2


def record(ms: float = 1.0, equal: int = 4, difference: float = 0.0, differences: tuple[str, ...] = ()) -> dict[str, Any]:
    samples = {PLAIN: [1000.0] * 6, OURS: [1000.0 * ms] * 6, AGAIN: [1000.0] * 6}
    times = {name: {"median": own[0]} for name, own in samples.items()}
    paired = {name: asdict(ratio) for name, ratio in ratios(samples).items()}
    report = {"verdict": "clean", "kernels_serial": 9, "kernels_streamed": 9, "reason": "", "differences": list(differences)}
    images = {"equal": equal, "of": 4, "difference": difference}
    return {"model": "sd3", "batch": 1, "mode": "default", "sides": {OURS: {"reports": [report]}},
            "images": {"captured by hand": images}, "ways": {"captured by hand": {**times, **paired}}}  # fmt: skip


@pytest.mark.parametrize(("found", "told"), [
    (record(), ""),
    (record(0.8), ""),
    (record(1.2), "is under 0.99x"),
    (record(equal=3, difference=0.01), "all launches are the serial code's"),
    (record(equal=3, difference=0.01, differences=("one",)), ""),
    (record(equal=3, difference=0.5, differences=("one",)), "more than rounding"),
    (record(equal=3, difference=float("nan"), differences=("one",)), "more than rounding"),
    ({"model": "sd3", "batch": 1, "mode": "default", "failed": "no answer"}, "no answer"),
])  # fmt: skip
def test_a_fault_is_told(found: dict[str, Any], told: str) -> None:
    assert told in fault(found) and bool(told) == bool(fault(found))
    assert len({len(row) for row in rows(found)}) == 1
    assert (f"- sd3, batch 1: {fault(found)}" in table([found])) == bool(told)


def test_each_kind_of_block_is_planned_once(capsys: pytest.CaptureFixture[str]) -> None:
    calls = denoising_blocks.calls_of(synthetic(), 2, "cpu")
    assert [(call["x"].shape, call.get("scale")) for _, call in calls] == [((2, 4), None), ((2, 8), None)]
    assert denoising_blocks.main(["--models", "sd3", "--batches", "2"], synthetic) == 0
    assert capsys.readouterr().out.count("sd3; 2; Block; ") == 2


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusers_steps, "gpus", lambda: 0)
    assert diffusers_steps.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
