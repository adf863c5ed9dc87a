"""Replace the GPU of the autotuner: code that launches nothing, and clocks that tell what a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from graphstreams.autotuning import autotuner, plan_benchmark, timing
from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.occupancy import Occupancy
from graphstreams.autotuning.timing import device_us
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options

H200 = DEVICES["h200"]
SERIAL = "the serial graph"


def graph_of(count: int, edges: Sequence[tuple[int, int]] = (), name: str = "g") -> KernelGraph:
    kernels = tuple(Kernel(i, f"k{i}", "gemm", launches=("mm",)) for i in range(count))
    return KernelGraph(name, kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))


def reading_of(graph: KernelGraph, order: Sequence[int] | None = None) -> Reading:
    module = fx.GraphModule(torch.nn.Module(), fx.Graph())
    launches = tuple(range(len(graph.kernels))) if order is None else tuple(order)
    return Reading(module, graph, (), (), (), launches, 0, {})


DIAMOND = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
US = [1.0, 2.0, 5.0, 1.0]


class KernelReplayer:
    """Replays nothing: a captured graph is the plan itself, and its time is what a test says."""

    def __init__(self, us: Mapping[int, float]) -> None:
        self.us, self.measured, self.asked = us, list[list[int]](), list[int]()
        self.direct, self.on_host, self.launched = dict[Any, float](), dict[Any, float](), list[list[Any]]()

    def capture_serial(self, order: Sequence[int]) -> Any:
        return SERIAL

    def capture_plan(self, plan: Plan) -> Any:
        return plan

    def capture_call(self, function: Callable[[], Any]) -> Any:
        return function()

    def direct_times(
        self, functions: Sequence[Callable[[], Any]], rounds: int, repeats: int, us_of: Any = device_us
    ) -> list[float]:
        self.launched.append([function() for function in functions])
        return [(self.direct if us_of is device_us else self.on_host)[result] for result in self.launched[-1]]

    def blocks(self, kernel: int) -> list[Occupancy]:
        self.asked.append(kernel)
        return [Occupancy(kernel + 1, 132), Occupancy(7, 264)] if kernel != 3 else []

    def kernel_times(self, order: Sequence[int]) -> dict[int, float]:
        self.measured.append(list(order))
        return {kernel: self.us[kernel] for kernel in order}


class Code:
    """Stands in for CompiledSerialGraph, for one graph after another."""

    keys_of: Sequence[str] = ()
    replayers: list[KernelReplayer]
    us: Mapping[int, float]
    direct: Mapping[Any, float] = {}
    on_host: Mapping[Any, float] = {}
    error: Exception | None = None

    def __init__(self, reading: Reading, serial: Any = None) -> None:
        self.reading = reading

    def keys(self) -> list[str]:
        return list(self.keys_of[: len(self.reading.kernels.kernels)])

    def arguments(self, values: Mapping[int, Any]) -> list[Any]:
        return list(values.values())

    def replayer(self, arguments: Sequence[Any]) -> KernelReplayer:
        if self.error is not None:
            raise self.error
        self.replayers.append(KernelReplayer(self.us))
        self.replayers[-1].direct.update(self.direct)
        self.replayers[-1].on_host.update(self.on_host)
        return self.replayers[-1]


def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Code]:
    """Return a class of serial code that the autotuner uses for one test, whose cache is empty."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    own = type("OwnCode", (Code,), {"replayers": [], "us": {i: float(i + 1) for i in range(9)}, "keys_of": list("abcdefgh")})
    monkeypatch.setattr(autotuner, "CompiledSerialGraph", own)
    return own


def timed_by(monkeypatch: pytest.MonkeyPatch, medians: Callable[..., list[float]]) -> None:
    """Let `medians` tell the times of graphs that are timed in turns."""
    for module in (plan_benchmark, timing):
        monkeypatch.setattr(module, "medians_in_turns", medians)


def clock(monkeypatch: pytest.MonkeyPatch, time: Callable[[Any], float]) -> list[list[Any]]:
    """Let every graph take what `time` says. Return what is measured in turns, each time."""
    turns: list[list[Any]] = []

    def medians(graphs: Sequence[Any], *_: int) -> list[float]:
        turns.append(list(graphs))
        return [time(graph) for graph in graphs]

    timed_by(monkeypatch, medians)
    return turns


def make_autotuner(
    graph: KernelGraph = DIAMOND, device: Any = H200, values: Mapping[int, Any] | None = None, **options: Any
) -> Autotuner:
    return Autotuner(reading_of(graph), device, Options(**options), values or {})
