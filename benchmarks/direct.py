"""Time serial Inductor, this package and an older one, launched by the host and as CUDA graphs, in one run and in turns.

    python benchmarks/direct.py --out direct [--baseline OLDER_CHECKOUT] [--rows NAME ...]

Needs a GPU. Rows are those of `examples/deepseek_workloads.py` at decode and three more modules. Each package has a process of
its own, which compiles serial Inductor and the backend. Both take turns on the GPU, one command at a time, so no two of them
run at once. Compiles follow each other too, because plans are measured in them.

Calls launched by the host are timed in pairs within one process: a few calls of serial and a few of the backend next to each
other, in alternating order. The ratio is the median of the pairs' ratios, with an interval of 95 %. What the same code takes
depends on when a process has compiled it. So serial is compiled twice, before ours and behind it, and ours is paired with both.
With `--between serial` it is ours that is compiled twice. The control is the ratio of the two compiles of one side: its
distance from 1 is noise. Replays are timed over five captures. Bits are compared with serial's.

Exit status 1: a ratio is under its bar, or can't be told from it; other bits; or a row that failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from direct_report import NEW, OLD, SIDES, failures, table
from paired import PairedRatio
from workers import Lost, RestartedWorker, Worker, environment_of, one_line

from graphstreams.benchmark.results import environment, write
from graphstreams.benchmark.run import has_gpu
from graphstreams.benchmark.timing import summary

ROOT = Path(__file__).parents[1]
ROWS = ("block-16-1", "block-128-1", "block-16-64", "block-128-64", "block-16-64-2048", "block-128-64-2048",
        "layer-tp8-1", "layer-tp1-1", "layer-tp8-16", "layer-tp8-32", "layer-tp8-64", "layer-tp8-1-65536", "layer-tp8-8-65536",
        "block-16-1-fp8", "block-128-1-fp8", "layer-tp8-1-fp8", "layer-tp8-32-fp8",
        "v4-flash-csa-1", "v4-flash-hca-1", "v4-pro-csa-1", "v4-pro-csa-32", "experts", "wide", "huge")  # fmt: skip
CAPTURES, REPLAYS = 5, 20  # of each graph, and in a sample
CALLS, PAIRED_S = 5, 3.0  # launched by the host in a sample, and seconds of the samples of a row
COMPILE_S, ANSWER_S = 240.0, 60.0


class Package:
    """A process with one version of the package."""

    def __init__(self, name: str, checkout: Path, arguments: argparse.Namespace) -> None:
        self.name = name
        worker = Path(__file__).with_name("direct_worker.py")
        command = [sys.executable, "-X", "faulthandler", str(worker), arguments.settings]
        log = arguments.out / f"{name}.log"
        self._worker = RestartedWorker(lambda: Worker(command, environment_of(checkout), log))

    def ask(self, timeout_s: float = ANSWER_S, **request: Any) -> dict[str, Any]:
        """Return the worker's answer. Raises Lost if it has none or failed."""
        answer = self._worker.ask(request, timeout_s)
        if "failed" in answer:
            raise Lost(f"{self.name}: {answer['failed']}")
        return answer

    @property
    def alive(self) -> bool:
        """Return whether the process is running."""
        return self._worker.alive

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def measure(row: str, packages: Sequence[Package], rounds: int, pairs: int, between: str) -> dict[str, Any]:
    """Compile one row in each process, then time all sides. Return the row's record, with any error as "failed"."""
    started = time.monotonic()
    result: dict[str, Any] = {"name": row, "sides": {}, "us": defaultdict(dict), "paired": {}}
    try:
        for package in packages:
            result["sides"][package.name] = package.ask(COMPILE_S, do="prepare", row=row, between=between)
        result["compiled_s"] = round(time.monotonic() - started, 1)
        for package in packages:
            time_pairs(result, package, pairs)
        result["us"]["graph"] = {side: summary(own) for side, own in replays_in_turns(packages, rounds).items()}
    except Lost as error:
        result["failed"] = one_line(str(error))
    for package in packages:
        if not package.alive:
            continue
        try:
            package.ask(do="drop")
        except Lost as error:
            result.setdefault("failed", one_line(str(error)))
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def time_pairs(result: dict[str, Any], package: Package, pairs: int) -> None:
    """Add the times of a package's calls launched by the host, and the ratio and its control from pairs of them."""
    samples = package.ask(do="pairs", pairs=pairs, calls=CALLS, seconds=PAIRED_S)
    for way, own in samples.items():
        for side, name in zip(SIDES[package.name], ("serial", "ours"), strict=True):
            result["us"][way][side] = summary(own[name])
    direct = samples["direct"]
    beside = ([*direct["serial"], *direct["second serial"]], [*direct["ours"], *direct["second ours"]])
    ratios = {"ratio": PairedRatio.of(*beside), "control": PairedRatio.of(direct["control"], direct["control again"])}
    result["paired"][package.name] = {name: asdict(ratio) for name, ratio in ratios.items()}


def replays_in_turns(packages: Sequence[Package], rounds: int) -> dict[str, list[float]]:
    """Return samples of the us of a replay by side, over five captures, each in its part of the rounds."""
    samples: dict[str, list[float]] = defaultdict(list)
    for current in range(rounds):
        if current and current % max(1, -(-rounds // CAPTURES)) == 0:
            for package in packages:
                package.ask(do="capture")
        for package in packages:
            for side, name in zip(SIDES[package.name], ("serial", "ours"), strict=True):
                samples[side].append(package.ask(do="replay", side=name, repeats=REPLAYS)["us"])
    return samples


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=f"of {', '.join(ROWS)}")
    add("--baseline", type=Path, help="an older checkout of this repository, to be timed beside this one")
    add("--rounds", type=int, default=30, help="rounds of timing replays, over five captures (default 30)")
    add("--pairs", type=int, default=200, help=f"pairs of samples of calls launched by the host, in {PAIRED_S} s (default 200)")
    add("--between", choices=("ours", "serial"), default="ours", help="which is compiled between two compiles of the other")
    add("--settings", choices=("deterministic", "default"), default="deterministic", help="of Inductor, for every side")
    add("--limit", type=float, help="seconds after which no further row is begun")
    add("--out", type=Path, default=Path("direct"), help="directory for direct.md and direct.json (default direct)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2 or arguments.pairs < 30:
        parser.error("--rounds has to be at least 2, --pairs at least 30")
    if arguments.baseline and not (arguments.baseline / "graphstreams" / "__init__.py").is_file():
        parser.error(f"--baseline: there is no package graphstreams in {arguments.baseline}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a row failed or does not hold."""
    arguments = parse_args(argv)
    if not has_gpu("direct"):
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    packages = [Package(NEW, ROOT, arguments)]
    if arguments.baseline:
        packages.append(Package(OLD, arguments.baseline, arguments))
    rows: list[Mapping[str, Any]] = []
    for name in arguments.rows:
        if arguments.limit and time.monotonic() - started > arguments.limit:
            rows.append({"name": name, "failed": f"not run: {arguments.limit:.0f} s had passed"})
        else:
            rows.append(measure(name, packages, arguments.rounds, arguments.pairs, arguments.between))
        seconds = round(time.monotonic() - started, 1)
        print(f"[{seconds:.0f} s] {table(rows[-1:]).splitlines()[2]}", flush=True)
        result = {**environment(), "seconds": seconds, "rounds": arguments.rounds, "pairs": arguments.pairs, "rows": rows}
        write(result, table(rows), arguments.out / "direct")
    for package in packages:
        package.close()
    print(f"\n{table(rows)}\nwritten to {arguments.out}/direct.md and direct.json after {seconds:.0f} s")
    return int(any(failures(row) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
