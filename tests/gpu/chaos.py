"""Disturb streamed graphs: spin kernels in front of random kernels, and an allocator that hands out poisoned blocks.

    PYTHONPATH=examples python -m tests.gpu.chaos --runs 10000 [--graphs 20] [--way direct]

Half of the runs are of layers of V3.2 and of V4, whose caches and states are written in place, half of random graphs on random
plans. Streams run under capture, so by default each run
is a replay, of a CUDA graph that is captured anew every few runs with other delays and with poison between its kernels. With
`--way direct` the host launches the streams, as it does in graphs for which that was measured to be no slower.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import deepseek_v4
import deepseek_v32
import torch
from tabulate import tabulate

from graphstreams.autotuning.cuda_graph import clones, copy_into, leaves, no_collection
from graphstreams.benchmark.bits import equal_bits
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.pipeline import other_plans
from graphstreams.planning import modelled_plan
from tests.support.captured_graphs import streams_in_direct_calls
from tests.support.random_graphs import plan_of, random_plan
from tests.support.random_modules import SIZE, RandomModule
from tests.support.same_kernels import SAME_KERNELS

Inputs = Callable[[int], Sequence[Any]]  # seed -> fresh inputs on the GPU

# Plans from prices: the same in every run, and there is one where no measured plan is faster than serial.
PRICED: dict[str, Any] = {"min_gain": 0.0, "costs": "roofline", "inductor": SAME_KERNELS}
# At most, of each delay one of these: about 30 us, longer than most kernels of the layer, and about 0.2 ms. The latter because
# the host of one machine took 15 us for a launch, and a kernel that is 30 us late there is done before the next but one.
CYCLES = (60_000, 60_000, 60_000, 400_000)
SIZES = (64, 2112, 8192, 24576, 131072, 262144)  # of tensors in layers, in elements
LAYERS = ((1, 8, 3), (1, 8, 2), (16, 8, 3), (1, 1, 3))  # of V3.2: tokens, tp, streams
V4_LAYERS = (("flash", "csa", 1), ("flash", "hca", 1), ("pro", "csa", 32))  # model, kind, tokens; tp is 8
REPLAYS = 5  # of each capture
PLANNER = "search_on_simulator"  # of planning/modelled_plan.py: what makes a plan where nothing is measured


class _Late:
    """A compiled kernel, or a table of library kernels, that now and then starts late on its stream.

    With `sizes`, what was freed on that stream is now and then poisoned before a launch in a capture, because no block comes
    into a graph from outside.
    """

    def __init__(self, inner: Any, rng: random.Random, cycles: Sequence[int], sizes: Sequence[int]) -> None:
        self._inner, self._dice, self._cycles, self._sizes = inner, rng, cycles, sizes

    def __getattr__(self, name: str) -> Any:
        launch = getattr(self._inner, name)
        if not callable(launch):
            return launch

        def late(*args: Any, **kwargs: Any) -> Any:
            if self._dice.random() < 0.3:
                torch.cuda._sleep(self._dice.randrange(1, self._dice.choice(self._cycles)))
            if self._sizes and self._dice.random() < 0.2 and torch.cuda.is_current_stream_capturing():
                pressure(self._dice, self._sizes)
            return launch(*args, **kwargs)

        return late


@contextmanager
def late_kernels(rng: random.Random, cycles: Sequence[int] = CYCLES, sizes: Sequence[int] = ()) -> Iterator[int]:
    """Let the kernels of every loaded streamed wrapper start late at random. Yields how many wrappers there are.

    With `sizes`, blocks of such sizes are poisoned in captures.
    """
    from torch._inductor.codecache import PyCodeCache

    wrappers = [module for module in PyCodeCache.modules if hasattr(module, "_acquire_streams")]
    saved = [(module, dict(vars(module))) for module in wrappers]
    for module in wrappers:
        for name, value in list(vars(module).items()):
            if name == "extern_kernels" or (name.startswith("triton_") and hasattr(value, "run")):
                setattr(module, name, _Late(value, rng, cycles, sizes))
    try:
        yield len(wrappers)
    finally:
        for module, names in saved:
            vars(module).update(names)


@contextmanager
def planned_by(make: Callable[[KernelGraph], Plan]) -> Iterator[list[Plan]]:
    """Let `make` give the plans of compiles with costs="roofline". Yields those that it gave. No others are tried."""
    made: list[Plan] = []

    def planner(space: Any) -> Plan:
        made.append(make(space.graph))
        return made[-1]

    no_others = mock.patch.object(other_plans, "other_plans", return_value=())
    with mock.patch.object(modelled_plan, PLANNER, planner), no_others:
        yield made


def random_plan_on(graph: KernelGraph, rng: random.Random, streams: int) -> Plan:
    """Return a random plan that uses exactly so many streams, or one for each kernel of a smaller graph."""
    kernels = len(graph.kernels)
    if kernels < 2:
        return plan_of(graph, range(kernels), dict.fromkeys(range(kernels), 0))
    while True:
        plan = random_plan(graph, rng)
        if plan.streams == min(streams, kernels):
            return plan


def pressure(rng: random.Random, sizes: Sequence[int] = SIZES) -> None:
    """Take blocks of sizes that graphs use, fill them with NaN and give them back, on the current stream."""
    for _ in range(rng.randrange(4)):
        torch.full((rng.choice(sizes),), float("nan"), device="cuda")


class Capturing:
    """Captures calls of a function, one graph at a time, all on one stream and in one pool of memory."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._stream, self._pool = function, torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self._kept = torch.cuda.CUDAGraph()  # without a graph that lives the pool would be gone
        with torch.cuda.graph(self._kept, pool=self._pool, stream=self._stream):
            self._anchor = torch.zeros(1, device="cuda")

    def capture(self, values: Sequence[Any]) -> tuple[torch.cuda.CUDAGraph, list[Any], list[Any]]:
        """Return a graph, its inputs and its outputs. The graph before must be gone."""
        graph, static = torch.cuda.CUDAGraph(), clones(values)
        with no_collection(), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = leaves(self._function(*static))
        return graph, static, outputs


def wrong_runs(
    serial: Callable[..., Any],
    streamed: Callable[..., Any],
    inputs: Inputs,
    runs: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, wrong: None,
    sizes: Sequence[int] = SIZES,
    way: str = "captured",
) -> int:
    """Return how many of `runs` disturbed runs of `streamed` have other bits than `serial` on the same inputs.

    `way` is "captured": replays of CUDA graphs, each captured with its own delays; or "direct": calls.
    """
    rng = random.Random(seed)
    wrong = 0
    with torch.no_grad():
        streamed(*clones(inputs(0)))
        run_of = _replayed(streamed, inputs) if way == "captured" else _called(streamed)
        with late_kernels(rng, sizes=sizes) as wrappers:
            assert wrappers, "no streamed wrapper is loaded: the graph runs serially"
            for run in range(runs):
                first = list(inputs(run % 50))
                values = clones(first)
                expected = leaves(serial(*first))
                pressure(rng, sizes)
                found, second = run_of(run, values)
                wrong += not (equal_bits(expected, found) and equal_bits(first, second))
                if run % 500 == 499:
                    progress(run + 1, wrong)
    return wrong


Run = Callable[[int, Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]]  # its number, inputs -> outputs, inputs behind it


def _called(streamed: Callable[..., Any]) -> Run:
    def call(run: int, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        with streams_in_direct_calls():
            return leaves(streamed(*values)), values

    return call


def _replayed(streamed: Callable[..., Any], inputs: Inputs) -> Run:
    capturing = Capturing(streamed)
    current: list[Any] = []

    def replay(run: int, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        if run % REPLAYS == 0:
            current.clear()
            current.extend(capturing.capture(inputs(0)))
        graph, static, outputs = current
        copy_into(static, values)
        graph.replay()
        return outputs, static

    return replay


@dataclass(frozen=True)
class Row:
    """One graph: how many disturbed runs it had, and how many were wrong. `serial` says why it ran on no streams, if so."""

    graph: str
    kernels: int
    streams: int
    events: int
    runs: int
    wrong: int
    serial: str = ""


def layer(tokens: int, tp: int) -> tuple[Any, Inputs]:
    """Return the V3.2 layer and a maker of its inputs."""
    config = deepseek_v32.Config(tokens=tokens, tp=tp)
    return deepseek_v32.build(config, "cuda"), lambda seed: deepseek_v32.example_inputs(config, "cuda", seed)


def v4_layer(model: str, kind: Any, tokens: int) -> tuple[Any, Inputs]:
    """Return a layer of V4 at decode and a maker of its inputs, the caches and states that it writes among them."""
    config = getattr(deepseek_v4.Config, model)(tp=8, kind=kind, tokens=tokens)
    return deepseek_v4.build(config, "cuda"), lambda seed: list(deepseek_v4.example_inputs(config, "cuda", seed))


def layer_rows(runs: int, way: str) -> Iterator[Row]:
    """Yield rows of the layers, with so many runs of each."""
    for tokens, tp, streams in LAYERS:
        yield layer_row(f"V3.2 layer, {tokens} tokens, tp {tp}", layer(tokens, tp), streams, runs, way)
    for model, kind, tokens in V4_LAYERS:
        name = f"V4-{model.capitalize()} {kind.upper()} layer, {tokens} tokens, tp 8"
        yield layer_row(name, v4_layer(model, kind, tokens), 4, runs, way)


def layer_row(name: str, made: tuple[Any, Inputs], streams: int, runs: int, way: str = "captured") -> Row:
    """Run a layer disturbed on the plan that the package makes from prices."""
    torch._dynamo.reset()
    module, inputs = made
    with torch.no_grad():
        streamed, report = compiled(module, inputs, {"streams": streams, "strict": True})
    wrong = wrong_runs(torch.compile(module, options=SAME_KERNELS), streamed, inputs, runs, way=way)
    return Row(name, report["kernels_streamed"], report["streams"], report["events"], runs, wrong)


def random_row(seed: int, runs: int, way: str = "captured") -> Row:
    """Run a random module disturbed on a random plan. The seed gives both; of a serial graph there are no runs."""
    torch._dynamo.reset()
    torch.manual_seed(seed)
    module, rng = RandomModule(seed).cuda().requires_grad_(False), random.Random(seed)
    streams = 2 + seed % 3
    with torch.no_grad(), planned_by(lambda graph: random_plan_on(graph, rng, streams)) as plans:
        streamed, report = compiled(module, random_inputs, {"streams": streams})
    name = f"random graph {seed}"
    if report["verdict"] != "clean":
        return Row(name, report["kernels_serial"], 1, 0, 0, 0, f"{report['verdict']}: {report['reason']}")
    assert plans, "the package did not ask for a random plan"
    serial = torch.compile(module, options=SAME_KERNELS)
    wrong = wrong_runs(serial, streamed, random_inputs, runs, seed, sizes=(SIZE * SIZE, 2 * SIZE * SIZE, 512, 4096), way=way)
    return Row(name, report["kernels_streamed"], report["streams"], report["events"], runs, wrong)


def random_inputs(seed: int) -> Sequence[torch.Tensor]:
    """Return inputs of a random module. The rows it writes are distinct: of two writes to one row a GPU keeps either."""
    rng = torch.Generator("cuda").manual_seed(seed)
    shapes = [(SIZE, SIZE)] * 3 + [(2 * SIZE, SIZE)]
    rows = torch.randperm(2 * SIZE, generator=rng, device="cuda")[:SIZE].clone()
    return [*(torch.randn(shape, generator=rng, device="cuda") for shape in shapes), rows]


def compiled(module: torch.nn.Module, inputs: Inputs, options: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the module compiled and called once, and what `report.json` says of its largest graph."""
    with tempfile.TemporaryDirectory() as directory:
        # A graph from a cache might be one of another plan: what is patched here is in no key.
        given = {**PRICED, "fx_graph_cache": False, "dump": directory, **options}
        streamed = torch.compile(module, backend="graphstreams", options=given)
        streamed(*(value.clone() for value in inputs(0)))
        reports = [json.loads(path.read_text()) for path in Path(directory).glob("*/report.json")]
    assert reports, "no graph was compiled"
    return streamed, max(reports, key=lambda report: report["kernels_serial"])


def random_rows(graphs: int, runs: int, way: str = "captured") -> Iterator[Row]:
    """Yield rows of `graphs` random graphs that run on streams, and the serial ones in between, in order of seeds."""
    streamed = 0
    for seed in range(4 * graphs):  # about one in four stays serial
        row = random_row(seed, runs, way)
        streamed += not row.serial
        yield row
        if streamed == graphs:
            return


def table(rows: Sequence[Row]) -> str:
    """Return a table of those that ran on streams, with a line of sums."""
    ran = [row for row in rows if not row.serial]
    headers = ("graph", "launches", "streams", "events", "runs", "wrong")
    kinds = sum(row.graph.startswith("random") for row in ran)
    sums = f"{sum(row.runs for row in ran)} runs ({kinds} random graphs), {sum(row.wrong for row in ran)} wrong"
    return f"{tabulate([astuple(row)[:-1] for row in ran], headers, tablefmt='github')}\n\n{sums}"


def main(argv: Sequence[str] | None = None) -> int:
    """Do half of the runs on the layer in several sizes, half on random graphs; exit status 1 if any run was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--graphs", type=int, default=20, help="how many random graphs share their half of the runs")
    parser.add_argument("--way", choices=("captured", "direct"), default="captured", help="replays (default) or calls")
    arguments = parser.parse_args(argv)
    rows = []
    for row in layer_rows(-(-arguments.runs // 2 // len(LAYERS + V4_LAYERS)), arguments.way):
        rows.append(row)
        print(f"{row.graph}, {row.streams} streams: {row.runs} runs, {row.wrong} wrong", flush=True)
    each = -(-arguments.runs // 2 // max(1, arguments.graphs))
    for row in random_rows(arguments.graphs, each, arguments.way) if arguments.graphs else ():
        rows.append(row)
        print(f"{row.graph}: {row.serial or f'{row.runs} runs, {row.wrong} wrong'}", flush=True)
    serial = sum(bool(row.serial) for row in rows)
    print(f"\n{table(rows)}; {serial} random graphs stayed serial and are not counted")
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
