"""The data of a benchmark: which variants of a module to run, how often, and a record of each.

A variant is a compiled function, or a plan that is replayed on the compiled kernels of the module's serial graph.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.cuda_graph import CapturedFunction, CudaGraph, clones, leaves
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.inductor.compile import PostGradBackend
from graphstreams.inductor.settings import stream_settings
from graphstreams.ir.kernels import KernelGraph
from graphstreams.pipeline.preconditions import final_graph
from graphstreams.planning.paths import Assignment
from graphstreams.reading.naming import inputs_by_position
from graphstreams.reading.reader import read

Function = Callable[..., Any]
Settings = Mapping[str, Any]  # of Inductor
Inputs = Callable[[int], Sequence[Any]]  # seed -> fresh inputs on the GPU
Compiler = Callable[[torch.nn.Module, Settings], Function]
# The graph, the us of each kernel, and the largest share of the GPU that a launch of it takes, from 0 to 1. Kernels are
# launched in the order of the assignment.
Policy = Callable[[KernelGraph, Sequence[float], Sequence[float]], Assignment]

SERIAL, OURS, REPLAYED = "serial", "graphstreams", "played"  # names of variants, or what they begin with
AUTOTUNED = "max-autotune"  # serial Inductor with that setting
OWN_VARIANTS: dict[str, dict[str, Any]] = {  # options of graphstreams by the variant's name
    "roofline": {"costs": "roofline", "search": 0},
    "measured": {"costs": "measured", "search": 0},
    "search": {"costs": "measured"},
}
FAST_VARIANTS: dict[str, dict[str, Any]] = {"fast": {"costs": "measured", "kernels": "fast"}}  # whose bits are not serial's


class CompiledVariant(CapturedFunction):
    """A compiled function with inputs of its own, as a CUDA graph and launched by the host."""

    def __init__(self, function: Function, values: Sequence[Any]) -> None:
        """Compile, call and capture `function` on clones of `values`. Raises what these raise."""
        function(*clones(values))  # compiles, on the stream that the program is on
        super().__init__(function, values)

    def direct(self) -> None:
        """Enqueue every kernel from the host."""
        self.function(*self.inputs)

    def results(self, values: Sequence[Any], direct: bool = False) -> list[Any]:
        """Return outputs and changed inputs on fresh inputs. A later replay overwrites those of a replay."""
        self.load(values)
        if direct:
            return [*leaves(self.function(*self.inputs)), *self.inputs]
        self.replay()
        return [*self.outputs, *self.inputs]


@dataclass(frozen=True)
class ReplayableGraph:
    """The kernels of a graph, compiled."""

    graph: KernelGraph
    order: list[int]  # kernel ids, as in the serial code
    replayer: KernelReplayer


def replayable_graphs(module: torch.nn.Module, inputs: Sequence[Any]) -> list[ReplayableGraph]:
    """Return the graphs of `module(*inputs)`, largest first, their kernels compiled and run once on the real inputs.

    Needs a CUDA device, and clears what Dynamo has compiled. Raises Unmeasurable if kernels can't be repeated.
    """
    found: list[tuple[int, ReplayableGraph]] = []  # each with its number of launches

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read(final_graph(gm), f"graph {len(found)}", names, stream_settings())
        code = CompiledSerialGraph(reading)
        with unset_fake_temporarily():
            arguments = code.arguments(inputs_by_position(reading.module, values))
            graph = ReplayableGraph(reading.kernels, reading.kernel_order, code.replayer(arguments))
        found.append((reading.launches, graph))

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(module, backend=PostGradBackend(visit))(*inputs)
    torch.compiler.reset()
    return [graph for _, graph in sorted(found, key=lambda pair: -pair[0])]


@dataclass(frozen=True)
class BenchmarkSpec:
    """The variants to run beside serial Inductor, and how often to run them."""

    compilers: Mapping[str, Compiler] = field(default_factory=dict)  # by the variant's name: "group" or "group: variant"
    policies: Mapping[str, Policy] | None = None  # None: no plan is replayed on the kernels of the serial graph
    options: Mapping[str, Any] = field(default_factory=dict)  # of graphstreams, in each of `own`
    describe: Callable[[KernelGraph, Assignment], Mapping[str, Any]] = lambda graph, assignment: {}  # kept of each assignment
    rounds: int = 40  # of timing
    replays: int = 50  # whose bits are compared
    direct_runs: int = 5  # launched by the host, whose bits are compared; no more than replays
    differences: int = 0  # fresh inputs on which differences from serial are measured if bits are not compared
    reduce_overhead_runs: int = 0  # of Inductor's own CUDA graphs, whose bits are compared
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: OWN_VARIANTS)


@dataclass
class WorkloadRun:
    """The variants of one workload, and a record of what is known of each."""

    records: dict[str, dict[str, Any]] = field(default_factory=lambda: {SERIAL: {}})
    compiled: dict[str, CompiledVariant] = field(default_factory=dict)
    replayed: dict[str, Callable[[], CudaGraph]] = field(default_factory=dict)  # what captures each plan
    serial_graph: ReplayableGraph | None = None  # holds the memory that replayed plans use

    def drop_failed(self) -> None:
        """Go on without the variants that failed. Raises RuntimeError if serial failed."""
        if reason := self.records[SERIAL].get("failed"):
            raise RuntimeError(reason)
        self.compiled = {name: each for name, each in self.compiled.items() if "failed" not in self.records[name]}
        self.replayed = {name: each for name, each in self.replayed.items() if "failed" not in self.records[name]}

    @contextmanager
    def record(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the record of a variant; an error in this context is written there, and the other variants go on."""
        record = self.records.setdefault(name, {})
        started = time.perf_counter()
        try:
            yield record
        except Exception as error:
            record["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        record["seconds"] = record.get("seconds", 0.0) + time.perf_counter() - started
