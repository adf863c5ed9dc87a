"""Run a benchmark without a GPU: what needs one is replaced, and functions run instead of graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphstreams.autotuning.cuda_graph import clones, leaves
from graphstreams.autotuning.occupancy import Occupancy
from graphstreams.benchmark import compile_variants, timing
from graphstreams.benchmark.variants import CompiledVariant
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import PlanFile
from graphstreams.planning.list_schedule import plan_kernels

ENVIRONMENT = dict.fromkeys(("device", "driver", "cuda", "torch", "triton", "python", "date"), "?")
GRAPH = KernelGraph(
    "g", tuple(Kernel(i, f"k{i}", "gemm") for i in range(4)), tuple(Edge(*e, EdgeKind.RAW) for e in ((0, 1), (0, 2), (2, 3)))
)


class CpuReplayer:
    """A replayer that notes the plans it has to capture."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def capture_serial(self, order: Sequence[int]) -> Any:
        return SimpleNamespace(replay=lambda: None)

    def capture_plan(self, plan: Plan) -> Any:
        self.plans.append(plan)
        return SimpleNamespace(replay=lambda: None)

    def kernel_times(self, order: Sequence[int]) -> dict[int, float]:
        return {kernel: 2.0 for kernel in order}

    def blocks(self, kernel: int) -> list[Occupancy]:
        return [Occupancy(10, 132)] if kernel else []


def compile_on_cpu(module: Any, backend: str = "inductor", options: Any = None, **_: Any) -> Any:
    """Return eager code; graphstreams leaves a report."""
    if backend == "graphstreams":
        folder = Path(options["dump"]) / "0_inference"
        folder.mkdir()
        plan = plan_kernels(GRAPH, [1.0] * 4, 2)
        fields = {
            "verdict": "clean",
            "reason": "",
            "kernels_serial": 4,
            "kernels_streamed": 4,
            "streams": 2,
            "events": 2,
            "measured": None,
            "seconds": {"plan": 0.25},
        }
        (folder / "report.json").write_text(json.dumps(fields))
        (folder / "plan.json").write_text(PlanFile.of(plan, GRAPH).dumps())
        if options.get("search") is None:
            return lambda *values: [leaf + 1 for leaf in leaves(module(*values))]  # other bits than serial's
        if options["costs"] == "measured":
            raise RuntimeError("no measuring here")
    return module


class CpuVariant(CompiledVariant):
    """A variant that calls its function instead of replaying a graph."""

    captures = 0

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        self.function, self.inputs = function, clones(values)
        self.outputs = leaves(function(*self.inputs))

    def capture_again(self) -> None:
        """Count it."""
        self.captures += 1

    def replay(self) -> None:
        """Run the function; its outputs go where a graph would leave them."""
        self.outputs = leaves(self.function(*self.inputs))


def replace_gpu(monkeypatch: pytest.MonkeyPatch) -> CpuReplayer:
    """Replace in a benchmark what needs a GPU. Return what notes the plans that are captured."""
    replayer = CpuReplayer()
    replayable = SimpleNamespace(graph=GRAPH, order=[0, 1, 2, 3], replayer=replayer)
    monkeypatch.setattr(compile_variants, "replayable_graphs", lambda *_: [replayable])
    monkeypatch.setattr(compile_variants, "CompiledVariant", CpuVariant)
    monkeypatch.setattr(
        timing, "times_in_turns", lambda functions, rounds, *_: [[10.0 + i] * rounds for i in range(len(functions))]
    )
    monkeypatch.setattr(torch, "compile", compile_on_cpu)
    return replayer
