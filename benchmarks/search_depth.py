"""Measure what a search finds with more plans, and how much that depends on its seed, for one module on the GPU at hand.

    python benchmarks/search_depth.py examples/deepseek_v32.py:bench --plans 32 64 128 --seeds 6

MODULE:FUNCTION is what `graphstreams bench` takes: tokens -> (module, seed -> inputs). The kernels are compiled once, so that
all searches have the same kernels in the same memory. The best plans of each search are timed again, over several captures and
in turns with the serial graph; the best of them counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from on_gpu import load
from tabulate import tabulate

from graphstreams.autotuning.measured_search import search_by_measuring
from graphstreams.autotuning.plan_benchmark import SCREENING_ROUNDS, TOP_CANDIDATES
from graphstreams.autotuning.timing import ROUNDS, means_over_captures, medians_in_turns
from graphstreams.benchmark.variants import ReplayableGraph, replayable_graphs
from graphstreams.ir.devices import device_at_hand
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.modelled_plan import plan_space
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.policies import search_on_simulator

SCREENING_REPEATS, REPEATS, LAST_REPEATS = 4, 8, 20


@dataclass(frozen=True)
class Searches:
    """The kernels of one graph, and the plans to search."""

    serial_graph: ReplayableGraph
    space: SearchSpace

    @staticmethod
    def of(serial_graph: ReplayableGraph, options: Options) -> Searches:
        """Return the searches of a graph whose kernels are timed as a compile times them."""
        graph, replayer = serial_graph.graph, serial_graph.replayer
        times = replayer.kernel_times(serial_graph.order)
        us = [times.get(kernel.id, 0.0) for kernel in graph.kernels]
        blocks = {kernel.id: [(b.count, b.at_once) for b in replayer.blocks(kernel.id)] for kernel in graph.kernels}
        return Searches(serial_graph, plan_space(graph, us, device_at_hand(), options, blocks))

    def run(self, screened: bool, plans: int, seed: int) -> tuple[float, float]:
        """Return how many times faster than serial the best plan of a search is, and the seconds that the search took.

        With `screened` each plan that is measured is the fastest of a few that were screened.
        """
        replayer, order = self.serial_graph.replayer, self.serial_graph.order
        serial = replayer.capture_serial(order)

        def measure(plan: Plan) -> float:
            before, after = medians_in_turns([serial, replayer.capture_plan(plan)], ROUNDS, REPEATS)
            return after / before

        def screen(drawn: Sequence[Plan]) -> int:
            times = medians_in_turns([replayer.capture_plan(plan) for plan in drawn], SCREENING_ROUNDS, SCREENING_REPEATS)
            return times.index(min(times))

        started = time.perf_counter()
        first = [search_on_simulator(self.space)]
        found = search_by_measuring(self.space, measure, plans, seed, first, screen=screen if screened else None)
        seconds = time.perf_counter() - started
        best = [each.plan for each in sorted(found, key=lambda each: each.measured_us)][:TOP_CANDIDATES]
        captures = [partial(replayer.capture_serial, order), *(partial(replayer.capture_plan, plan) for plan in best)]
        whole, *times = means_over_captures(captures, ROUNDS, LAST_REPEATS)
        return whole / min(times), seconds


def table(run: Callable[[bool, int, int], tuple[float, float]], plans: Sequence[int], seeds: int) -> str:
    """Return a line a number of plans, without and with screening: mean and range of the speed-up, and mean seconds.

    `run` takes these and a seed. All kinds have their turn for each seed, so that a clock that drifts does so for all.
    """
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {each: [] for each in product(plans, (False, True))}
    for seed in range(seeds):
        for (count, screened), results in found.items():
            results.append(run(screened, count, seed))
    lines = []
    for (count, screened), results in found.items():
        gains, seconds = zip(*results, strict=True)
        cells = [f"{value:.3f}x" for value in (statistics.fmean(gains), min(gains), max(gains))]
        lines.append([count, "yes" if screened else "no", *cells, f"{statistics.fmean(seconds):.2f}"])
    return tabulate(
        lines,
        headers=["plans", "screened", "mean", "lowest", "highest", "search s"],
        tablefmt="github",
        disable_numparse=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table a number of tokens. Return 2 if there is no GPU or the function can't be loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("function", metavar="MODULE:FUNCTION", help="tokens -> (module, seed -> inputs)")
    add("--batch", type=int, nargs="+", default=[1], help="numbers of tokens (default 1)")
    add("--plans", type=int, nargs="+", default=[32, 64, 128], help="plans that a search measures (default 32 64 128)")
    add("--seeds", type=int, default=6, help="searches of each kind (default 6)")
    arguments = parser.parse_args(argv)
    if min(arguments.seeds, *arguments.plans, *arguments.batch) < 1:
        parser.error("--batch, --plans and --seeds have to be 1 or more")
    make = load(arguments.function)
    if make is None:
        return 2
    for tokens in arguments.batch:
        with torch.no_grad():
            module, inputs = make(tokens)
            searches = Searches.of(replayable_graphs(module, inputs(0))[0], Options.from_dict())
            found = table(searches.run, arguments.plans, arguments.seeds)
        print(f"\n{tokens} token{'s' * (tokens > 1)}, {arguments.seeds} seeds\n\n{found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
