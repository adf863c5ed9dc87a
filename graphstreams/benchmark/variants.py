"""Who takes part in a contest: serial Inductor, graphstreams, and what others bring to put a module on streams."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import Captured, clones, leaves
from graphstreams.ir.kernels import KernelGraph
from graphstreams.planning.paths import Assignment

Function = Callable[..., Any]
Settings = Mapping[str, Any]  # of Inductor
Inputs = Callable[[int], Sequence[Any]]  # seed -> fresh inputs on the GPU
Maker = Callable[[torch.nn.Module, Settings], Function]  # compiles a module in a rival's way
# The graph, the us of each kernel and the largest share of the GPU that a launch of it takes, from 0 to 1. The order of the
# assignment is that of the launches.
Policy = Callable[[KernelGraph, Sequence[float], Sequence[float]], Assignment]

SERIAL, OURS, PLAYED = "serial", "graphstreams", "played"  # names of rivals, or what they begin with
VARIANTS: dict[str, dict[str, Any]] = {
    "roofline": {"costs": "roofline", "search": 0},
    "measured": {"costs": "measured", "search": 0},
    "search": {"costs": "measured"},
}


class CompiledVariant(Captured):
    """A compiled function with inputs of its own, as a CUDA graph and launched by the host."""

    def __init__(self, function: Function, values: Sequence[Any]) -> None:
        """`values` are cloned. Raises what compiling, running or capturing the function raises."""
        function(*clones(values))  # compiles, on the stream that the program is on
        super().__init__(function, values)

    def direct(self) -> None:
        """Enqueue every kernel from the host."""
        self.function(*self.inputs)

    def results(self, values: Sequence[Any], direct: bool = False) -> list[Any]:
        """Outputs and changed inputs on fresh inputs. A later call overwrites those of a graph."""
        self.load(values)
        if direct:
            return [*leaves(self.function(*self.inputs)), *self.inputs]
        self.replay()
        return [*self.outputs, *self.inputs]


@dataclass(frozen=True)
class BenchmarkSpec:
    """Who takes part beside serial Inductor and graphstreams, and how often each is run."""

    makers: Mapping[str, Maker] = field(default_factory=dict)  # by the rival's name: "group" or "group: variant"
    policies: Mapping[str, Policy] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of graphstreams, under each of VARIANTS
    told: Callable[[KernelGraph, Assignment], Mapping[str, Any]] = lambda graph, assignment: {}  # kept of each assignment
    rounds: int = 40  # of timing
    replays: int = 50  # whose bits are compared


@dataclass
class WorkloadRun:
    """All that is timed in turns for one workload, and what is known of each rival."""

    rivals: dict[str, dict[str, Any]] = field(default_factory=lambda: {SERIAL: {}})
    compiled: dict[str, CompiledVariant] = field(default_factory=dict)
    played: dict[str, Callable[[], Any]] = field(default_factory=dict)  # what captures each as a CUDA graph
    playable: Any = None  # the serial graph's kernels, with the memory that the played graphs use

    def drop_failed(self) -> None:
        """Go on without the rivals that failed. Raises RuntimeError where serial did."""
        if reason := self.rivals[SERIAL].get("failed"):
            raise RuntimeError(reason)
        self.compiled = {name: each for name, each in self.compiled.items() if "failed" not in self.rivals[name]}
        self.played = {name: each for name, each in self.played.items() if "failed" not in self.rivals[name]}

    @contextmanager
    def entry(self, name: str) -> Iterator[dict[str, Any]]:
        """The record of a rival. What fails in here is written there, and the others go on."""
        record = self.rivals.setdefault(name, {})
        started = time.perf_counter()
        try:
            yield record
        except Exception as error:
            record["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        record["seconds"] = record.get("seconds", 0.0) + time.perf_counter() - started
