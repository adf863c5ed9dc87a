"""Compare settings of Inductor that users switch on: serial and streams, each without and with the setting, in turns.

    python benchmarks/own_settings.py --out own_settings [--settings combo_kernels max_autotune]

Needs a GPU. The module is the V3.2 layer, TP 8, one token, unless `--workload` names another. All variants are captured in CUDA
graphs, five times each, and timed in turns in one run. With a setting on, the backend has to be at least as fast as serial with
the setting and as streams without it, but for one per cent of noise. Exit status 1: it is not, or it failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from more_modules import MORE
from tabulate import tabulate
from workers import one_line

from graphstreams import graphstreams
from graphstreams.benchmark.bits import compare_bits
from graphstreams.benchmark.results import environment, largest_report, write
from graphstreams.benchmark.run import has_gpu, parse_counts, prepared, release
from graphstreams.benchmark.timing import time_in_turns
from graphstreams.benchmark.variants import OURS, SERIAL, CompiledVariant, Inputs, WorkloadRun

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from deepseek_workloads import WORKLOADS

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "combo_kernels": {"combo_kernels": True},
    "benchmark_combo_kernel": {"combo_kernels": True, "benchmark_combo_kernel": True},
    "coordinate_descent_tuning": {"coordinate_descent_tuning": True},
    "memory_planning": {"memory_planning": True},
    "profiler_mark_wrapper_call": {"profiler_mark_wrapper_call": True},
    "multi_kernel": {"triton.multi_kernel": 1},
    "enable_pdl": {"triton.enable_pdl": True},
    "max_autotune": {"max_autotune": True},
}
REPORTED = ("verdict", "reason", "kernels_serial", "kernels_streamed", "measured")
BAR = 0.99
ROW = ("setting", "serial us", "serial, set", "streams", "streams, set", "against the faster", "verdict", "bits", "failed")


def variants(names: Sequence[str], base: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return backend and settings of Inductor of each variant, by name. Those without a setting come first."""
    found = {SERIAL: ("inductor", dict(base)), OURS: (OURS, dict(base))}
    for name in names:
        for backend, title in (("inductor", SERIAL), (OURS, OURS)):
            found[f"{title}: {name}"] = backend, {**base, **SETTINGS[name]}
    return found


def compile_variant(
    compared: WorkloadRun, name: str, variant: tuple[str, dict[str, Any]], module: torch.nn.Module, values: Sequence[Any]
) -> None:
    """Compile, call and capture one variant; its record says what the backend reports, or why it failed."""
    backend, settings = variant
    with compared.record(name) as record, tempfile.TemporaryDirectory() as directory:
        if backend == OURS:
            options: dict[str, Any] = {"inductor": settings, "dump": directory}
            function = torch.compile(module, backend=graphstreams, options=options)
            compared.compiled[name] = CompiledVariant(function, values)
            _, report = largest_report(Path(directory))
            record.update({key: report.get(key) for key in REPORTED})
        else:
            compared.compiled[name] = CompiledVariant(torch.compile(module, options=settings), values)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile all variants, compare bits, and time them in turns. After the time limit nothing more is compiled."""
    started, compared = time.perf_counter(), WorkloadRun()
    module, inputs = made(arguments.workload)
    values = inputs(0)
    left_out = []
    for name, variant in variants(arguments.settings, {"deterministic": arguments.deterministic}).items():
        if time.perf_counter() - started > arguments.limit:
            left_out.append(name)
            continue
        compile_variant(compared, name, variant, module, values)
        record = compared.records[name]
        told = record.get("failed") or f"{record.get('verdict', '')} {record.get('reason') or ''}"
        print(f"[{time.perf_counter() - started:.0f} s] {name}: {one_line(told)}", flush=True)
    compared.drop_failed()
    compare_bits(compared, inputs, arguments.replays)
    time_in_turns(compared, values, arguments.rounds)
    seconds = round(time.perf_counter() - started, 1)
    names = [name for name in arguments.settings if f"{OURS}: {name}" not in left_out]
    told = {"workload": arguments.workload, "settings": names, "left_out": left_out}
    return {**told, "rivals": compared.records, "seconds": seconds}


def made(workload: str) -> tuple[torch.nn.Module, Inputs]:
    """Return the module and the maker of its inputs."""
    return MORE[workload]() if workload in MORE else WORKLOADS[workload].make()


def median(result: Mapping[str, Any], name: str) -> float | None:
    """Return the us of a replay of one variant; None if it was not timed."""
    record = result["rivals"].get(name, {})
    return record["graph"]["median"] if "graph" in record and "failed" not in record else None


def against_the_faster(result: Mapping[str, Any], setting: str) -> float | None:
    """Return how many times faster the backend with the setting is than the faster of the two variants that it has to match."""
    others = [us for us in (median(result, f"{SERIAL}: {setting}"), median(result, OURS)) if us is not None]
    own = median(result, f"{OURS}: {setting}")
    return min(others) / own if others and own else None


def failing(result: Mapping[str, Any]) -> list[str]:
    """Return the settings with which the backend failed or is slower than it has to be.

    A setting with which serial fails too does not count.
    """
    found = []
    for setting in result["settings"]:
        ratio = against_the_faster(result, setting)
        serial_failed = "failed" in result["rivals"].get(f"{SERIAL}: {setting}", {})
        if (ratio is None and not serial_failed) or (ratio is not None and ratio < BAR):
            found.append(setting)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return a markdown table, a line for each setting."""
    lines = []
    for setting in result["settings"]:
        names = [SERIAL, f"{SERIAL}: {setting}", OURS, f"{OURS}: {setting}"]
        serial, *times = [median(result, name) for name in names]
        ratio = against_the_faster(result, setting)
        record = result["rivals"].get(names[-1], {})
        reasons = {name: result["rivals"].get(name, {}).get("failed") for name in names}
        failed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
        lines.append([
            setting, f"{serial:.1f}" if serial else "-", *(f"{us:.1f}" if us else "-" for us in times),
            f"{ratio:.3f}x" if ratio else "-", one_line(f"{record.get('verdict', '-')} {record.get('reason') or ''}", 80),
            _bits(record), one_line(failed),
        ])  # fmt: skip
    text = tabulate(lines, ROW, tablefmt="github", disable_numparse=True)
    return f"# {result['workload']}\n\n{text}\n\nus of one replay. Not run: {', '.join(result['left_out']) or 'nothing'}.\n"


def _bits(record: Mapping[str, Any]) -> str:
    wrong = sum(record.get("wrong", {}).values())
    return "equal" if not wrong else f"{wrong} differ, by {record['difference']:.1e}"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME", help=f"of {', '.join(SETTINGS)}")
    add("--workload", choices=[*WORKLOADS, *MORE], default="layer-tp8-1", metavar="NAME", help="default layer-tp8-1")
    add("--deterministic", action="store_true", help="compile all variants with Inductor's setting `deterministic`")
    add("--limit", type=float, default=300.0, help="seconds after which nothing more is compiled (default 300)")
    add("--out", type=Path, default=Path("own_settings"), help="directory for own_settings.md and own_settings.json")
    return parse_counts(parser, argv, replays=5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a setting makes the backend fail or be slower than it has to be."""
    arguments = parse_args(argv)
    if not has_gpu("own_settings"):
        return 2
    with prepared(), torch.no_grad():
        result = run(arguments)
        release()
    write({**environment(), **result}, table(result), arguments.out / "own_settings")
    print(f"\n{table(result)}\nwritten to {arguments.out}/own_settings.md and .json after {result['seconds']:.0f} s")
    return int(bool(failing(result)))


if __name__ == "__main__":
    raise SystemExit(main())
