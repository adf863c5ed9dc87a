"""Every way to put DeepSeek V3.2's decode kernels on streams against serial Inductor, in one run and in turns.

    python examples/bench_deepseek.py --out bench

Needs a GPU. Rivals: streams by hand in the model, opaque custom operators as in vLLM, graphstreams with modelled costs, with
measured costs and with search, and the policies of other systems on the same kernels. Writes DIR/bench.md and DIR/bench.json
after every workload, so that a run that is cut short leaves what it has measured.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_common import Contestant, environment, largest_report, summary, write
from bench_report import CUSTOM, HAND, OURS, PLAYED, SERIAL, best, progress, report
from custom_op_streams import CustomOpStreams
from deepseek_parts import parts_of
from deepseek_pre_attention import PreAttention, pre_attention_inputs
from deepseek_v32 import Config, build, example_inputs
from hand_streams import PHASES, HandStreams
from peers import POLICIES, fork_and_join_syncs, minimum_syncs, plan_of

from graphstreams.planning.events import check_plan
from graphstreams.planning.plan import FORK, JOIN, Plan
from graphstreams.rewriting.execution import equal_bits
from graphstreams.runtime.captured import clones
from graphstreams.runtime.player import times_in_turns

DEVICE = "cuda"
REPEATS, DIRECT_REPEATS, DIRECT_RUNS = 20, 5, 5
OPTIONS: dict[str, dict[str, Any]] = {
    "roofline": {"costs": "roofline", "search": 0},
    "measured": {"costs": "measured", "search": 0},
    "search": {"costs": "measured"},
}

Function = Callable[..., Any]
Settings = Mapping[str, Any]


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

    def module(self) -> torch.nn.Module:
        """With random weights."""
        layer = build(self.config, DEVICE)
        return layer if self.whole else PreAttention(layer)

    def inputs(self, seed: int) -> list[Any]:
        """Fresh random inputs."""
        make = example_inputs if self.whole else pre_attention_inputs
        return list(make(self.config, DEVICE, seed))


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


@dataclass
class Field:
    """All that is timed in turns for one workload, and what is known of each rival."""

    rivals: dict[str, dict[str, Any]] = field(default_factory=lambda: {SERIAL: {}})
    compiled: dict[str, Contestant] = field(default_factory=dict)
    played: dict[str, Any] = field(default_factory=dict)  # CUDA graphs
    playable: Any = None  # the serial graph's kernels, with the memory that the played graphs use

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
        record["seconds"] = round(time.perf_counter() - started, 2)


def makers(module: torch.nn.Module, settings: Settings, hand: Sequence[str], custom: Sequence[str]) -> dict[str, Function]:
    """What compiles each rival that has nothing to do with graphstreams. `hand` and `custom` are names of PHASES."""

    def by_hand(phases: frozenset[int]) -> Function:
        compiled = torch.compile(HandStreams(parts_of(module), phases), fullgraph=True, options=dict(settings))
        return lambda *values: compiled(*values)[0]

    def by_operators(phases: frozenset[int]) -> Function:
        opaque = CustomOpStreams(parts_of(module), phases, settings)
        return torch.compile(opaque, fullgraph=True, options=dict(settings))

    made: dict[str, Function] = {SERIAL: lambda: torch.compile(module, options=dict(settings))}
    made.update({f"{HAND}{name}": lambda phases=PHASES[name]: by_hand(phases) for name in hand})
    made.update({f"{CUSTOM}{name}": lambda phases=PHASES[name]: by_operators(phases) for name in custom})
    return made


def enter(entrants: Field, module: torch.nn.Module, values: Sequence[Any], made: Mapping[str, Function]) -> None:
    """Compile and capture the rivals of `makers`. Raises what serial raises."""
    for name, make in made.items():
        with entrants.entry(name):
            entrants.compiled[name] = Contestant(make(), values)
    if SERIAL not in entrants.compiled:
        raise RuntimeError(entrants.rivals[SERIAL]["failed"])


def enter_ours(entrants: Field, module: torch.nn.Module, values: Sequence[Any], settings: Settings) -> dict[str, Plan]:
    """Compile and capture graphstreams under each of OPTIONS; returns the plans by name."""
    plans = {}
    for name in OPTIONS:
        with entrants.entry(f"{OURS}{name}") as record, tempfile.TemporaryDirectory() as directory:
            options = {**OPTIONS[name], "inductor": dict(settings), "dump": directory}
            function = torch.compile(module, backend="graphstreams", options=options)
            entrants.compiled[f"{OURS}{name}"] = Contestant(function, values)
            verdict, plan = _verdict(Path(directory))
            record.update(verdict)
            if plan is not None:
                plans[name] = plan
    return plans


def _verdict(directory: Path) -> tuple[dict[str, Any], Plan | None]:
    """What the report on the largest graph says, and its plan."""
    folder, largest = largest_report(directory)
    names = ("verdict", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured")
    kept = {name: largest[name] for name in names}
    plan = folder / "plan.json"
    return kept, Plan.loads(plan.read_text()) if plan.exists() else None


def enter_player(entrants: Field, module: torch.nn.Module, values: Sequence[Any], settings: Settings) -> None:
    """Make the kernels of the serial graph ready to be played. Forgets what Dynamo has compiled, so it has to come first."""
    from graphstreams.playing import player_of

    with entrants.entry(f"{PLAYED}serial"), torch._inductor.config.patch(dict(settings)):
        entrants.playable = player_of(module, clones(values))[0]


def enter_policies(entrants: Field, plans: Mapping[str, Plan]) -> None:
    """The kernels of the serial graph, played as our plans and as other systems' policies place them."""
    if entrants.playable is None:
        return
    with entrants.entry(f"{PLAYED}serial"):
        graph, order, player = entrants.playable.graph, entrants.playable.order, entrants.playable.player
        entrants.played[f"{PLAYED}serial"] = player.serial(order)
        measured = player.kernel_times(order)
        us = [measured.get(kernel.id, 0.0) for kernel in graph.kernels]
        shares = [max((b.share for b in player.blocks(kernel.id)), default=0.0) for kernel in graph.kernels]
        for name, plan in plans.items():
            with entrants.entry(f"{PLAYED}graphstreams, {name}") as record:
                _play(entrants, f"{PLAYED}graphstreams, {name}", player, graph, plan, record)
        for name, policy in POLICIES.items():
            with entrants.entry(f"{PLAYED}{name}") as record:
                assignment = policy(graph, us, shares)
                record["reduction_syncs"] = minimum_syncs(graph, assignment)
                record["reduction_forks_and_joins"] = sum(fork_and_join_syncs(graph, assignment))
                _play(entrants, f"{PLAYED}{name}", player, graph, plan_of(graph, assignment, us), record)


def _play(entrants: Field, name: str, player: Any, graph: Any, plan: Plan, record: dict[str, Any]) -> None:
    check_plan(graph, plan)
    entrants.played[name] = player.play(plan)
    waits = [(event.after, wait.kernel) for event in plan.events for wait in event.waits]
    inner = sum(after != FORK and kernel != JOIN for after, kernel in waits)
    record.update(streams=plan.streams, waits=len(waits), inner_waits=inner, events=len(plan.events))


def compare_bits(entrants: Field, inputs: Callable[[int], Sequence[Any]], replays: int) -> None:
    """Count the runs of each compiled rival whose outputs or changed inputs have other bits than serial's."""
    others = {name: each for name, each in entrants.compiled.items() if name != SERIAL}
    for name in others:
        runs = {"graph": replays, "direct": min(DIRECT_RUNS, replays)}
        entrants.rivals[name].update(wrong=dict.fromkeys(runs, 0), runs=runs, difference=0.0, unstable=0)
    for seed in range(1, replays + 1):
        fresh = inputs(seed)
        for way in ("graph", "direct") if seed <= DIRECT_RUNS else ("graph",):
            expected = entrants.compiled[SERIAL].results(fresh, way == "direct")
            for name, other in others.items():
                _compare(entrants.rivals[name], other, fresh, expected, way)


def _compare(record: dict[str, Any], other: Contestant, fresh: Sequence[Any], expected: Sequence[Any], way: str) -> None:
    found = other.results(fresh, way == "direct")
    if equal_bits(expected, found):
        return
    record["wrong"][way] += 1
    record["difference"] = max(record["difference"], difference(expected, found))
    found = clones(found)
    record["unstable"] += not equal_bits(found, other.results(fresh, way == "direct"))


def time_in_turns(entrants: Field, values: Sequence[Any], rounds: int) -> None:
    """Add median and quartiles of each rival on `values`, as a CUDA graph and, where it is compiled, launched directly."""
    # What top-k takes depends on its input, and the played graphs still have these values.
    for each in entrants.compiled.values():
        each.load(values)
    replays = {name: each.replay for name, each in [*entrants.compiled.items(), *entrants.played.items()]}
    direct = {name: each.direct for name, each in entrants.compiled.items()}
    for way, functions, repeats in (("graph", replays, REPEATS), ("direct", direct, DIRECT_REPEATS)):
        samples = times_in_turns(list(functions.values()), rounds, repeats)
        for name, own in zip(functions, samples, strict=True):
            entrants.rivals[name][way] = summary(own)


def run_workload(workload: Workload, setting: str, arguments: argparse.Namespace, hand: Sequence[str]) -> dict[str, Any]:
    """Everything about one workload under one setting, as it stands in bench.json. Never raises."""
    started, entrants = time.perf_counter(), Field()
    row: dict[str, Any] = {"title": workload.title, "rivals": entrants.rivals}
    settings = {"deterministic": setting == "deterministic"}
    torch._dynamo.reset()
    try:
        module, values = workload.module(), workload.inputs(0)
        if setting == "deterministic":
            enter_player(entrants, module, values, settings)
        enter(entrants, module, values, makers(module, settings, hand, arguments.custom))
        plans = enter_ours(entrants, module, values, settings)
        if setting == "deterministic":
            enter_policies(entrants, plans)
            compare_bits(entrants, workload.inputs, arguments.replays)
        time_in_turns(entrants, values, arguments.rounds)
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All workloads under all settings. The second setting takes the variant by hand that was fastest under the first."""
    started, result = time.perf_counter(), {**environment(), "rounds": arguments.rounds, "repeats": REPEATS}
    result.update(replays=arguments.replays, passes={setting: [] for setting in arguments.settings})
    fastest: dict[str, str] = {}
    for setting in arguments.settings:
        for name in arguments.workloads:
            if arguments.limit and time.perf_counter() - started > arguments.limit:
                row = {"title": WORKLOADS[name].title, "failed": f"not run: {arguments.limit} s had passed", "rivals": {}}
            else:
                row = run_workload(WORKLOADS[name], setting, arguments, [fastest[name]] if name in fastest else arguments.hand)
                gc.collect()
                torch.cuda.empty_cache()
            row["name"] = name
            if (chosen := best(row, HAND)) is not None:
                fastest[name] = chosen.removeprefix(HAND)
            result["passes"][setting].append(row)
            result["seconds"] = round(time.perf_counter() - started, 1)
            print(f"[{result['seconds']:.0f} s] {setting}: {progress(row)}", flush=True)
            write(result, report(result), arguments.out / "bench")
    return result


def difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest difference relative to the largest value of its tensor; where they are no floats, the share that differs."""
    worst = 0.0
    for first, second in zip(expected, found, strict=True):
        if torch.equal(first, second):
            continue
        if not first.is_floating_point():
            worst = max(worst, float((first != second).float().mean()))
            continue
        gap = float((first.float() - second.float()).abs().max() / first.float().abs().max())
        worst = max(worst, gap if gap == gap else float("inf"))
    return worst


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
    torch._dynamo.config.recompile_limit = 64  # one module is compiled for every rival
    gc.freeze()  # every capture collects garbage first, which otherwise looks at all that was imported
    with torch.no_grad():
        result = run(arguments)
    print(report(result))
    print(f"written to {arguments.out}/bench.md and bench.json after {result['seconds']:.0f} s")
    return int(all(row.get("failed") for rows in result["passes"].values() for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
