"""Time one compile with a dynamic number of tokens on both sides of its threshold against serial Inductor.

    python examples/bench_tokens.py --out tokens

Needs a GPU. DeepSeek V3.2's attention layer is compiled once by serial Inductor and once by graphstreams; each call then has
another number of tokens. Bits are compared first, then both sides are timed in turns on the same inputs. Writes
DIR/tokens.md and DIR/tokens.json after every number of tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_tokens_report import HEADERS, SIDES, cells, tables, told
from deepseek_v32 import Config, build, example_inputs
from torch._dynamo.utils import counters

from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.results import environment, largest_report, write
from graphstreams.benchmark.run import has_gpu, release
from graphstreams.benchmark.timing import captures_in, samples_over_captures, summary
from graphstreams.benchmark.variants import CompiledVariant
from graphstreams.options import Options

DEVICE = "cuda"
REPEATS = {"graph": 20, "direct": 5}  # calls in a sample of a time
TOKENS = (4, 8, 16, 32, 64, 128, 256, 512)
INDUCTOR: dict[str, Any] = {"deterministic": True}  # so that reductions of both sides round alike


def compile_both(config: Config, min_gain: float) -> tuple[list[Callable[..., Any]], dict[str, Any]]:
    """Return the functions of SIDES, compiled by a call with `config.tokens` tokens, and the report of graphstreams.

    Raises what compiling raises, and RuntimeError if graphstreams saw no graph.
    """
    module = build(config, DEVICE)
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"min_gain": min_gain, "inductor": INDUCTOR, "dump": directory}
        functions = [
            torch.compile(module, options=INDUCTOR),
            torch.compile(module, backend="graphstreams", options=options),
        ]
        for function in functions:
            values = example_inputs(config, DEVICE, 0)
            for value in values:
                torch._dynamo.mark_dynamic(value, 0)
            function(*values)
        return functions, largest_report(Path(directory))[1]


def tokens_around(threshold: Mapping[str, Any] | None) -> list[int]:
    """Return TOKENS, and the numbers on both sides of each limit of a threshold as it stands in report.json."""
    limits = threshold or {"smallest": 0, "largest": None}
    beside = {limits["smallest"] - 1, limits["smallest"]} if limits["smallest"] else set()
    beside |= {limits["largest"], limits["largest"] + 1} if limits["largest"] else set()
    # torch compiles another graph for a size of 1.
    return sorted({*TOKENS, *(tokens for tokens in beside if tokens > 1)})


def runs_on(report: Mapping[str, Any], tokens: int) -> str:
    """Return which body a call with so many tokens runs in a CUDA graph, by report.json."""
    if report["verdict"] != "clean":
        return "serial"
    limits = report["threshold"] or {"smallest": 0, "largest": None}
    below = limits["largest"] is None or tokens <= limits["largest"]
    return "streams" if limits["smallest"] <= tokens and below else "serial body"


def wrong_runs(sides: Sequence[CompiledVariant], config: Config, seeds: int) -> dict[str, int]:
    """Return how many of `seeds` runs on fresh inputs have other outputs or changed inputs than serial's, by way to run."""
    wrong = dict.fromkeys(REPEATS, 0)
    for seed in range(1, seeds + 1):
        fresh = example_inputs(config, DEVICE, seed)
        for way in wrong:
            expected, found = (side.results(fresh, way == "direct") for side in sides)
            wrong[way] += not equal_bits(expected, found)
    return wrong


def measure(functions: Sequence[Callable[..., Any]], config: Config, seeds: int, rounds: int) -> dict[str, Any]:
    """Compare bits and times of both sides with `config.tokens` tokens. The captures are freed on return."""
    values = example_inputs(config, DEVICE, 0)
    sides = [CompiledVariant(function, values) for function in functions]
    row: dict[str, Any] = {"wrong": wrong_runs(sides, config, seeds), "runs": dict.fromkeys(REPEATS, seeds)}
    for side in sides:
        side.load(values)

    def capture(again: bool) -> dict[str, Callable[[], None]]:
        for side in sides if again else ():
            side.capture_again()
        return {name: side.replay for name, side in zip(SIDES, sides, strict=True)}

    graph = samples_over_captures(capture, rounds, REPEATS["graph"])
    direct = dict(zip(SIDES, times_in_turns([side.direct for side in sides], rounds, REPEATS["direct"]), strict=True))
    for way, samples in (("graph", graph), ("direct", direct)):
        row[way] = {name: summary(samples[name]) for name in SIDES}
    return row


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return what tokens.json holds. Raises what compiling raises; later errors are noted in rows."""
    started = time.perf_counter()
    torch._dynamo.reset()
    counters.clear()
    config = Config(tp=arguments.tp, tokens=(arguments.tokens or TOKENS)[0])
    functions, report = compile_both(config, arguments.min_gain)
    captures = captures_in(arguments.rounds)
    result = {**environment(), "repeats": REPEATS, "captures": captures, "compiled_at": config.tokens, "rows": []}
    result.update({name: getattr(arguments, name) for name in ("tp", "rounds", "seeds", "min_gain")})
    result.update({name: report[name] for name in ("verdict", "reason", "threshold", "launched_by_the_host")})
    print(f"compiled after {time.perf_counter() - started:.0f} s. {told(result)}", flush=True)
    given = sorted({*arguments.tokens}) if arguments.tokens else tokens_around(report["threshold"])
    for tokens in given:
        row = {"tokens": tokens, "runs_on": runs_on(report, tokens)}
        try:
            row.update(measure(functions, replace(config, tokens=tokens), arguments.seeds, arguments.rounds))
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        release()
        result["rows"].append({**row, "graphs": counters["stats"]["unique_graphs"]})
        result["seconds"] = round(time.perf_counter() - started, 1)
        print(f"[{result['seconds']:.0f} s] {', '.join(map(': '.join, zip(HEADERS, cells(row), strict=True)))}", flush=True)
        write(result, tables(result), arguments.out / "tokens")
    return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tp", type=int, default=8, help="ranks that share the attention heads (default 8)")
    default = f"{' '.join(map(str, TOKENS))}, and those beside the threshold"
    add("--tokens", type=int, nargs="+", help=f"in a call; the first is compiled for (default {default})")
    add("--min-gain", type=float, default=Options.min_gain, help=f"option of graphstreams (default {Options.min_gain})")
    add("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    add("--seeds", type=int, default=5, help="fresh inputs on which bits are compared, in each way to run (default 5)")
    add("--out", type=Path, default=Path("tokens"), help="directory for tokens.md and tokens.json (default tokens)")
    arguments = parser.parse_args(argv)
    if min(arguments.tokens or TOKENS) < 2 or arguments.rounds < 2 or arguments.seeds < 0:
        parser.error("--tokens and --rounds have to be at least 2, --seeds at least 0")
    try:
        Config(tp=arguments.tp)
        Options(min_gain=arguments.min_gain)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 if there is no GPU, 1 if nothing could be measured."""
    arguments = parse_args(argv)
    if not has_gpu("bench_tokens"):
        return 2
    with torch.no_grad():
        result = run(arguments)
    print(f"\n{tables(result)}\nwritten to {arguments.out}/tokens.md and tokens.json after {result['seconds']:.0f} s")
    return int(all("failed" in row for row in result["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
