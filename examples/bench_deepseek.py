"""Time every way to put the kernels of DeepSeek's attention on streams against serial Inductor, in one run and in turns.

    python examples/bench_deepseek.py --out bench

Needs a GPU. Variants: streams by hand in the model, opaque custom operators as in vLLM, graphstreams with modelled costs, with
measured costs and with search, and the policies of other systems on the same kernels. If asked for, also kernels="fast"
(`--own fast`) and serial Inductor with max-autotune (`--autotuned`): then ratios to the faster of the two, and the largest
differences from serial, stand in tables of their own. There are no custom operators for V4 and FP8. DIR/bench.md and
DIR/bench.json are written after every workload: an interrupted run leaves what it measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hand_streams_v4
import torch
from custom_op_streams import by_operators
from deepseek_workloads import WORKLOADS, V4Workload, Workload
from hand_streams import PHASES, by_hand
from peers import POLICIES, syncs

from graphstreams.benchmark.results import add_row, empty_result, report
from graphstreams.benchmark.run import has_gpu, parse_counts, prepared, release, run_workload
from graphstreams.benchmark.tables import best
from graphstreams.benchmark.variants import AUTOTUNED, FAST_VARIANTS, OURS, OWN_VARIANTS, BenchmarkSpec, Compiler, Settings

HAND, CUSTOM = "hand", "custom op"  # what the names of these variants begin with
TITLE, GROUPS = "DeepSeek's attention: streams compared", {"streams by hand": HAND, "custom operators": CUSTOM}
OWN = {**OWN_VARIANTS, **FAST_VARIANTS}
DIFFERENCES = 10  # fresh inputs on which variants whose bits differ are compared with serial
NO_OPERATORS = "not run: there are no custom operators for V4 and FP8"


def compilers(workload: Workload | V4Workload, hand: Sequence[str], custom: Sequence[str]) -> dict[str, Compiler]:
    """Return what compiles each variant without graphstreams. `hand` and `custom` are names of PHASES."""
    ways: dict[str, tuple[Any, Sequence[str]]] = {HAND: (by_hand, hand), CUSTOM: (by_operators, custom)}
    if isinstance(workload, V4Workload):
        ways = {HAND: (hand_streams_v4.by_hand, hand)}
    elif workload.config.fp8:
        del ways[CUSTOM]
    return {f"{group}: {name}": partial(way, phases=PHASES[name]) for group, (way, names) in ways.items() for name in names}


def autotuned(module: torch.nn.Module, settings: Settings) -> Any:
    """Compile a module with serial Inductor's setting max_autotune."""
    return torch.compile(module, options={**settings, "max_autotune": True})


def measure(
    workload: Workload | V4Workload, arguments: argparse.Namespace, hand: Sequence[str], setting: str
) -> dict[str, Any]:
    """Return all about one workload under one setting, with these phases of streams by hand."""
    ways = compilers(workload, hand, arguments.custom)
    ways.update({AUTOTUNED: autotuned} if arguments.autotuned else {})
    own = {name: OWN[name] for name in arguments.own}
    policies = POLICIES if arguments.policies else None
    differences = min(arguments.replays, DIFFERENCES) if arguments.autotuned or FAST_VARIANTS.keys() & own.keys() else 0
    spec = BenchmarkSpec(ways, policies, {}, syncs, arguments.rounds, arguments.replays, differences=differences, own=own)
    row = run_workload(workload.title, workload.make, spec, setting == "deterministic")
    if arguments.autotuned:
        row["rivals"].setdefault(AUTOTUNED, {"failed": "not run: the workload failed before"})
    if isinstance(workload, V4Workload) or workload.config.fp8:
        row["rivals"].update({f"{CUSTOM}: {name}": {"reason": NO_OPERATORS} for name in arguments.custom})
    release()
    return row


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all workloads under all settings. The second setting takes the variant by hand that was fastest under the first."""
    started = time.perf_counter()
    groups = {**GROUPS, **({"Inductor, max-autotune": AUTOTUNED} if arguments.autotuned else {})}
    groups.update({f"graphstreams, {name} kernels": f"{OURS}: {name}" for name in arguments.own if name in FAST_VARIANTS})
    result = empty_result(TITLE, groups, arguments.settings, arguments.rounds, arguments.replays)
    fastest: dict[str, str] = {}
    for setting in arguments.settings:
        for name in arguments.workloads:
            workload = WORKLOADS[name]
            if arguments.limit and time.perf_counter() - started > arguments.limit:
                row = {"title": workload.title, "failed": f"not run: {arguments.limit} s had passed", "rivals": {}}
                if arguments.autotuned:  # without it no ratio is one to serial Inductor at its best
                    row["rivals"] = {AUTOTUNED: {"failed": row["failed"]}}
            else:
                row = measure(workload, arguments, [fastest[name]] if name in fastest else arguments.hand, setting)
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
        help="of Inductor: deterministic (all variants, bits compared), default (what is compiled, speed only)")  # fmt: skip
    add("--hand", nargs="*", choices=PHASES, default=list(PHASES), help="variants of streams placed by hand (default all)")
    add("--custom", nargs="*", choices=PHASES, default=["both"], help="variants of custom operators (default both)")
    add(
        "--own",
        nargs="+",
        choices=OWN,
        default=list(OWN_VARIANTS),
        help=f"variants of graphstreams (default {' '.join(OWN_VARIANTS)}; fast: kernels with other bits than serial's)",
    )
    add("--autotuned", action="store_true", help="compile serial Inductor with max_autotune too")
    add("--policies", action=argparse.BooleanOptionalAction, default=True, help="replay plans of other systems (default yes)")
    add("--limit", type=float, help="seconds after which no further workload is started")
    add("--out", type=Path, default=Path("bench"), help="directory for bench.md and bench.json (default bench)")
    return parse_counts(parser, argv, replays=50)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 if there is no GPU, 1 if nothing could be measured."""
    arguments = parse_args(argv)
    if not has_gpu("bench_deepseek"):
        return 2
    with prepared():
        result = run(arguments)
    print(report(result))
    print(f"written to {arguments.out}/bench.md and bench.json after {result['seconds']:.0f} s")
    return int(all(row.get("failed") for rows in result["passes"].values() for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
