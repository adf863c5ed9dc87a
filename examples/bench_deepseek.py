"""Every way to put DeepSeek V3.2's decode kernels on streams against serial Inductor, in one run and in turns.

    python examples/bench_deepseek.py --out bench

Needs a GPU. Rivals: streams by hand in the model, opaque custom operators as in vLLM, graphstreams with modelled costs, with
measured costs and with search, and the policies of other systems on the same kernels. Writes DIR/bench.md and DIR/bench.json
after every workload, so that a run that is cut short leaves what it has measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from custom_op_streams import by_operators
from deepseek_pre_attention import PreAttention, pre_attention_inputs
from deepseek_v32 import Config, build, example_inputs
from hand_streams import PHASES, by_hand
from peers import POLICIES, syncs

from graphstreams.benchmark.run import prepared, release, run_workload
from graphstreams.benchmark.tables import best, report
from graphstreams.benchmark.variants import BenchmarkSpec, Inputs, Maker
from graphstreams.command_line.bench import add_row, empty_result

DEVICE = "cuda"
HAND, CUSTOM = "hand", "custom op"  # what the names of these rivals begin with
TITLE, GROUPS = "DeepSeek V3.2 at decode: streams compared", {"streams by hand": HAND, "custom operators": CUSTOM}


@dataclass(frozen=True)
class Workload:
    """A module and the inputs it is timed on: the block in front of the attention, or the whole layer."""

    config: Config
    whole: bool

    @property
    def title(self) -> str:
        """For people."""
        tokens = f"{self.config.tokens} token" + "s" * (self.config.tokens > 1)
        slots = f", {self.config.context:,} slots" * (self.config.context != Config.context)
        if self.whole:
            return f"layer, TP {self.config.tp}, {tokens}{slots}"
        return f"block before the attention, {self.config.heads} heads, {tokens}{slots}"

    def make(self) -> tuple[torch.nn.Module, Inputs]:
        """The module with random weights, and what makes fresh random inputs."""
        layer = build(self.config, DEVICE)
        inputs = example_inputs if self.whole else pre_attention_inputs
        return layer if self.whole else PreAttention(layer), lambda seed: list(inputs(self.config, DEVICE, seed))


WORKLOADS = {
    "block-16-1": Workload(Config(heads=16, tokens=1), False),
    "block-128-1": Workload(Config(heads=128, tokens=1), False),
    "block-16-64": Workload(Config(heads=16, tokens=64), False),
    "block-128-64": Workload(Config(heads=128, tokens=64), False),
    "block-16-64-2048": Workload(Config(heads=16, tokens=64, context=2048), False),
    "block-128-64-2048": Workload(Config(heads=128, tokens=64, context=2048), False),
    "layer-tp8-1": Workload(Config(tp=8, tokens=1), True),
    "layer-tp1-1": Workload(Config(tp=1, tokens=1), True),
    "layer-tp8-16": Workload(Config(tp=8, tokens=16), True),
    "layer-tp8-32": Workload(Config(tp=8, tokens=32), True),
    "layer-tp8-64": Workload(Config(tp=8, tokens=64), True),
}


def makers(hand: Sequence[str], custom: Sequence[str]) -> dict[str, Maker]:
    """What compiles each rival that has nothing to do with graphstreams. `hand` and `custom` are names of PHASES."""
    groups: tuple[tuple[str, Any, Sequence[str]], ...] = ((HAND, by_hand, hand), (CUSTOM, by_operators, custom))
    return {f"{group}: {name}": partial(make, phases=PHASES[name]) for group, make, names in groups for name in names}


def contest(arguments: argparse.Namespace, hand: Sequence[str]) -> BenchmarkSpec:
    """The rivals, with these variants of streams by hand."""
    return BenchmarkSpec(makers(hand, arguments.custom), POLICIES, {}, syncs, arguments.rounds, arguments.replays)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All workloads under all settings. The second setting takes the variant by hand that was fastest under the first."""
    started = time.perf_counter()
    result = empty_result(TITLE, GROUPS, arguments.settings, arguments.rounds, arguments.replays)
    fastest: dict[str, str] = {}
    for setting in arguments.settings:
        for name in arguments.workloads:
            workload = WORKLOADS[name]
            if arguments.limit and time.perf_counter() - started > arguments.limit:
                row = {"title": workload.title, "failed": f"not run: {arguments.limit} s had passed", "rivals": {}}
            else:
                chosen = contest(arguments, [fastest[name]] if name in fastest else arguments.hand)
                row = run_workload(workload.title, workload.make, chosen, setting == "deterministic")
                release()
            row["name"] = name
            if (winner := best(row, HAND)) is not None:
                fastest[name] = winner.removeprefix(f"{HAND}: ")
            add_row(result, setting, row, time.perf_counter() - started, arguments.out, partial(print, flush=True))
    return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=f"of {', '.join(WORKLOADS)}")
    add("--settings", nargs="+", choices=("deterministic", "default"), default=["deterministic", "default"],
        help="of Inductor: deterministic (all rivals, bits compared), default (what is compiled, speed only)")  # fmt: skip
    add("--hand", nargs="+", choices=PHASES, default=list(PHASES), help="variants of streams placed by hand (default all)")
    add("--custom", nargs="+", choices=PHASES, default=["both"], help="variants of custom operators (default both)")
    add("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    add("--replays", type=int, default=50, help="replays whose bits are compared (default 50)")
    add("--limit", type=float, help="seconds after which no further workload is started")
    add("--out", type=Path, default=Path("bench"), help="directory for bench.md and bench.json (default bench)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2 or arguments.replays < 0:
        parser.error("--rounds has to be at least 2, --replays at least 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 where there is no GPU, 1 where nothing could be measured."""
    arguments = parse_args(argv)
    if not torch.cuda.is_available():
        print("bench_deepseek needs a CUDA device", file=sys.stderr)
        return 2
    with prepared():
        result = run(arguments)
    print(report(result))
    print(f"written to {arguments.out}/bench.md and bench.json after {result['seconds']:.0f} s")
    return int(all(row.get("failed") for rows in result["passes"].values() for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
