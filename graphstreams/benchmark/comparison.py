"""Serial Inductor against the streamed graph on a GPU: equal bits first, then times, both in one run and in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import Captured, clones, copy_into, leaves
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.results import largest_report
from graphstreams.benchmark.variants import Inputs


@dataclass(frozen=True)
class Times:
    """Microseconds of one call: the median over rounds, and the first and third quartile."""

    median: float
    first_quartile: float
    third_quartile: float

    @staticmethod
    def of(samples: Sequence[float]) -> Times:
        """From one sample a round, in us."""
        low, middle, high = statistics.quantiles(samples, n=4)
        return Times(middle, low, high)


@dataclass(frozen=True)
class Comparison:
    """One workload, serial and streamed, in one run."""

    name: str
    verdict: str
    reason: str
    wrong: dict[str, int] = field(default_factory=dict)  # way of running -> runs whose bits differ from serial's
    runs: dict[str, int] = field(default_factory=dict)  # way of running -> runs compared
    graph: tuple[Times, Times] | None = None  # CUDA-graph replay: serial, streamed
    direct: tuple[Times, Times] | None = None  # launched by the host: serial, streamed

    @property
    def speedup(self) -> float:
        """Serial over streamed time under CUDA-graph replay."""
        return self.graph[0].median / self.graph[1].median if self.graph else float("nan")

    @property
    def equal(self) -> bool:
        """Whether every compared run had serial's bits."""
        return not any(self.wrong.values())


def compare(
    name: str,
    module: torch.nn.Module,
    inputs: Inputs,
    options: Mapping[str, Any] | None = None,
    replays: int = 1000,
    direct_runs: int = 20,
    rounds: int = 40,
    reduce_overhead: bool = True,
    deterministic: bool = True,
) -> Comparison:
    """Compile `module` twice and compare bits and times over fresh random inputs.

    Ways of running: "direct" (launched by the host), "graph" (a hand-captured CUDA graph, replayed `replays` times with new
    inputs each) and "reduce-overhead" (Inductor's own CUDA graphs). With `deterministic` both sides are compiled with the
    setting of Inductor of that name: else a reduction that each side tunes by itself may come out with another block size, so
    that sums round differently. Raises RuntimeError without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("comparing times needs a CUDA device")
    torch.compiler.reset()
    with torch.no_grad(), tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {"deterministic": deterministic}
        own: dict[str, Any] = {**(options or {}), "inductor": settings}
        serial = torch.compile(module, options=settings)
        streamed = torch.compile(module, backend="graphstreams", options={**own, "dump": directory})
        wrong, runs = {}, {"direct": direct_runs, "graph": replays}
        wrong["direct"] = _wrong_runs(serial, streamed, inputs, direct_runs)
        verdict, reason = _verdict(Path(directory))
        first, second = (Captured(function, inputs(0)) for function in (serial, streamed))
        wrong["graph"] = sum(not _replay_equal(first, second, inputs(seed)) for seed in range(1, replays + 1))
        if reduce_overhead:
            runs["reduce-overhead"] = direct_runs
            # What mode="reduce-overhead" means; torch.compile takes no mode beside options.
            own["inductor"] = {**settings, **torch._inductor.list_mode_options("reduce-overhead")}
            quick = torch.compile(module, backend="graphstreams", options=own)
            wrong["reduce-overhead"] = _wrong_with_static_inputs(serial, quick, inputs, direct_runs)
        graph = _in_turns([first.replay, second.replay], rounds, 20)
        static = [list(inputs(0)) for _ in range(2)]
        direct = _in_turns([lambda: serial(*static[0]), lambda: streamed(*static[1])], rounds, 5)
    return Comparison(name, verdict, reason, wrong, runs, graph, direct)


def _verdict(directory: Path) -> tuple[str, str]:
    try:
        _, largest = largest_report(directory)
    except RuntimeError:
        return "serial", "no graph was compiled"
    return largest["verdict"], largest["reason"]


def _wrong_runs(serial: Callable[..., Any], streamed: Callable[..., Any], inputs: Inputs, count: int) -> int:
    wrong = 0
    for seed in range(count):
        first = list(inputs(seed))
        second = clones(first)
        results = [leaves(serial(*first)), leaves(streamed(*second))]
        wrong += not (equal_bits(*results) and equal_bits(first, second))
    return wrong


def _wrong_with_static_inputs(serial: Callable[..., Any], streamed: Callable[..., Any], inputs: Inputs, count: int) -> int:
    """As above with inputs that stay where they are: Inductor's CUDA graphs take a mutated input only so."""
    static = clones(inputs(0))
    for value in static:
        if isinstance(value, torch.Tensor):
            torch._dynamo.mark_static_address(value, guard=False)
    wrong = 0
    for seed in range(count):
        fresh = list(inputs(seed))
        copy_into(static, fresh)
        torch.compiler.cudagraph_mark_step_begin()
        results = [leaves(serial(*fresh)), clones(leaves(streamed(*static)))]
        wrong += not (equal_bits(*results) and equal_bits(fresh, static))
    return wrong


def _replay_equal(serial: Captured, streamed: Captured, fresh: Sequence[Any]) -> bool:
    for graph in (serial, streamed):
        graph.load(fresh)
        graph.replay()
    return equal_bits(serial.outputs, streamed.outputs) and equal_bits(serial.inputs, streamed.inputs)


def _in_turns(functions: Sequence[Callable[[], Any]], rounds: int, repeats: int) -> tuple[Times, Times]:
    """Time of one call of each of two functions, measured in turns."""
    first, second = (Times.of(own) for own in times_in_turns(functions, rounds, repeats, discarded=3))
    return first, second
