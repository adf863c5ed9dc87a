"""Run the benchmark of one workload: compile every variant, compare bits, and time all of them in turns.

Scripts of benchmarks also find here what they share: options, how to set up the process, whether there is a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from graphstreams.benchmark.bits import compare_bits, compare_reduce_overhead, measure_differences
from graphstreams.benchmark.compile_variants import capture_plans, compile_own_variants, compile_variants, load_serial_graph
from graphstreams.benchmark.timing import time_in_turns
from graphstreams.benchmark.variants import BenchmarkSpec, Inputs, Settings, WorkloadRun
from graphstreams.inductor.compile import recompile_limit


def run_workload(
    title: str, make: Callable[[], tuple[torch.nn.Module, Inputs]], spec: BenchmarkSpec, deterministic: bool = True
) -> dict[str, Any]:
    """Return all about one workload as plain data: "title", "rivals" by name, "seconds", and "failed" if nothing ran.

    With `deterministic` all variants are compiled with the setting of Inductor of that name, bits are compared and plans are
    replayed; without, each compile tunes its reductions by itself, so that only times can be compared. Never raises: errors
    are written down and printed.
    """
    started, run = time.perf_counter(), WorkloadRun()
    row: dict[str, Any] = {"title": title, "rivals": run.records}
    torch.compiler.reset()
    try:
        with torch.no_grad():
            _compile_and_measure(run, *make(), spec, {"deterministic": deterministic})
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    for record in run.records.values():
        if "seconds" in record:
            record["seconds"] = round(record["seconds"], 2)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _compile_and_measure(
    run: WorkloadRun, module: torch.nn.Module, inputs: Inputs, spec: BenchmarkSpec, settings: Settings
) -> None:
    values, deterministic = inputs(0), settings["deterministic"]
    if deterministic and spec.policies is not None:
        load_serial_graph(run, module, values, settings)
    compile_variants(run, module, values, spec.compilers, settings)
    plans = compile_own_variants(run, module, values, spec, settings)
    if deterministic:
        capture_plans(run, plans, spec)
        compare_bits(run, inputs, spec.replays, spec.direct_runs)
        if spec.reduce_overhead_runs:
            compare_reduce_overhead(run, module, inputs, spec, settings)
    elif spec.differences:
        measure_differences(run, inputs, spec.differences)
    time_in_turns(run, values, spec.rounds)


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Set the process up so that many variants compile one module and capture it; a crash shows where it happened."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # if standard error is no file
            faulthandler.enable()
    gc.freeze()  # every measured compile collects garbage, which otherwise looks at all that was imported
    try:
        with recompile_limit(64):
            yield
    finally:
        gc.unfreeze()


def release() -> None:
    """Give back the memory of a workload that is done."""
    gc.collect()
    torch.cuda.empty_cache()


def parse_counts(parser: argparse.ArgumentParser, argv: Sequence[str] | None, replays: int) -> argparse.Namespace:
    """Add `--rounds` and `--replays`, the latter with this default, and read the command line. Exits if one is too small."""
    parser.add_argument("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    parser.add_argument("--replays", type=int, default=replays, help=f"replays whose bits are compared (default {replays})")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2 or arguments.replays < 0:
        parser.error("--rounds has to be at least 2, --replays at least 0")
    return arguments


def has_gpu(script: str) -> bool:
    """Return whether there is a CUDA device; if not, say on standard error that `script` needs one."""
    if not torch.cuda.is_available():
        print(f"{script} needs a CUDA device", file=sys.stderr)
    return torch.cuda.is_available()
