"""What a search finds with more plans, and how much that depends on its seed: plans of one module, measured on the GPU at hand.

    python benchmarks/search_depth.py examples/deepseek_v32.py:bench --plans 32 64 128 --seeds 6

MODULE:FUNCTION is what `graphstreams bench` takes: tokens -> (module, seed -> inputs). The kernels are compiled once, so that
all searches have the same ones in the same memory. Of each search the best plans are timed again, over several captures and
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

from graphstreams.autotuning.autotuner import BRIEF_TURNS, FINALISTS, TURNS
from graphstreams.autotuning.measured_search import search_by_measuring
from graphstreams.autotuning.timing import means_over_captures, medians_in_turns
from graphstreams.benchmark.replayable import Playable, player_of
from graphstreams.ir.devices import device_at_hand
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.local_search import search_on_simulator
from graphstreams.planning.modelled_plan import plan_space
from graphstreams.planning.neighborhood import SearchSpace

BRIEF_REPEATS, REPEATS, FINAL_REPEATS = 4, 8, 20


@dataclass(frozen=True)
class Searches:
    """The kernels of one graph, and the plans to search."""

    playable: Playable
    space: SearchSpace

    @staticmethod
    def of(playable: Playable, options: Options) -> Searches:
        """Kernels are timed as a compile times them."""
        graph, player = playable.graph, playable.player
        times = player.kernel_times(playable.order)
        us = [times.get(kernel.id, 0.0) for kernel in graph.kernels]
        blocks = {kernel.id: [(b.count, b.at_once) for b in player.blocks(kernel.id)] for kernel in graph.kernels}
        return Searches(playable, plan_space(graph, us, device_at_hand(), options, blocks))

    def run(self, brief: bool, plans: int, seed: int) -> tuple[float, float]:
        """How many times faster than serial the best plan of a search is, and the seconds that the search took.

        With `brief` the plans that are measured are the fastest of a few that are tried briefly.
        """
        player, serial = self.playable.player, self.playable.player.serial(self.playable.order)

        def measure(plan: Plan) -> float:
            before, after = medians_in_turns([serial, player.play(plan)], TURNS, REPEATS)
            return after / before

        def fastest(drawn: Sequence[Plan]) -> int:
            times = medians_in_turns([player.play(plan) for plan in drawn], BRIEF_TURNS, BRIEF_REPEATS)
            return times.index(min(times))

        started = time.perf_counter()
        first, trying = [search_on_simulator(self.space)], fastest if brief else None
        tried = search_by_measuring(self.space, measure, plans, seed, first, fastest=trying)
        seconds = time.perf_counter() - started
        fastest_first = [each.plan for each in sorted(tried, key=lambda each: each.measured_us)]
        best = fastest_first[:FINALISTS]
        captured = [partial(player.serial, self.playable.order), *(partial(player.play, plan) for plan in best)]
        whole, *times = means_over_captures(captured, TURNS, FINAL_REPEATS)
        return whole / min(times), seconds


def table(run: Callable[[bool, int, int], tuple[float, float]], plans: Sequence[int], seeds: int) -> str:
    """A line a number of plans, without and with brief tries: mean and range of the speed-up over seeds, and mean seconds.

    `run` takes these and a seed. All kinds have their turn for each seed, so that a clock that drifts does so for all.
    """
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {each: [] for each in product(plans, (False, True))}
    for seed in range(seeds):
        for (count, brief), results in found.items():
            results.append(run(brief, count, seed))
    lines = []
    for (count, brief), results in found.items():
        gains, seconds = zip(*results, strict=True)
        cells = [f"{value:.3f}x" for value in (statistics.fmean(gains), min(gains), max(gains))]
        lines.append([count, "yes" if brief else "no", *cells, f"{statistics.fmean(seconds):.2f}"])
    return tabulate(
        lines,
        headers=["plans", "tried briefly", "mean", "lowest", "highest", "search s"],
        tablefmt="github",
        disable_numparse=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table a number of tokens; 2 where there is no GPU or the function cannot be loaded."""
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
            searches = Searches.of(player_of(module, inputs(0))[0], Options.from_dict())
            found = table(searches.run, arguments.plans, arguments.seeds)
        print(f"\n{tokens} token{'s' * (tokens > 1)}, {arguments.seeds} seeds\n\n{found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
