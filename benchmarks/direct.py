"""Plain Inductor, this package and an older one, launched by the host and as CUDA graphs, in one run and in turns.

    python benchmarks/direct.py --out direct [--baseline OLDER_CHECKOUT] [--rows NAME ...]

Needs a GPU. Rows are those of `examples/bench_deepseek.py` and three more modules. Each package has a process of its own, which
compiles serial Inductor and the backend. Both take turns on the GPU, one command at a time, so no two of them run at once.
Compiles follow each other too, because plans are measured in them. Written: the time of a call launched by the host, waiting
for the GPU at the end of each batch; the time until a call returns; the time of a replay, over five captures. Bits are compared
with serial's. Exit status 1: a ratio under its bar, other bits, or a row that failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from workers import Lost, Worker, environment_of, one_line, serve

ROOT = Path(__file__).parents[1]
ROWS = ("block-16-1", "block-128-1", "block-16-64", "block-128-64", "block-16-64-2048", "block-128-64-2048",
        "layer-tp8-1", "layer-tp1-1", "layer-tp8-16", "layer-tp8-32", "layer-tp8-64", "experts", "wide", "huge")  # fmt: skip
SERIAL, NEW, OLD, OLD_SERIAL = "serial", "new", "old", "serial, old process"
SIDES = {NEW: (SERIAL, NEW), OLD: (OLD_SERIAL, OLD)}  # of each process
CAPTURES = 5
DIRECT_BAR, GRAPH_BAR = 0.99, 0.98
REPEATS = {"graph": 20, "direct": 10, "host": 1}
COMPILE_S = 240.0


class Package:
    """One process with one version of the package."""

    def __init__(self, name: str, checkout: Path, arguments: argparse.Namespace) -> None:
        self.name, self._checkout, self._arguments = name, checkout, arguments
        self._worker: Worker | None = None

    def ask(self, timeout_s: float = 60.0, **request: Any) -> dict[str, Any]:
        """Return the worker's answer. Raises Lost if it has none or failed; the next question goes to a new worker."""
        if self._worker is None:
            command = [sys.executable, __file__, "--worker", "--settings", self._arguments.settings]
            self._worker = Worker(command, environment_of(self._checkout), self._arguments.out / f"{self.name}.log")
        try:
            answer = self._worker.ask(request, timeout_s)
        except Lost:
            self.close()
            raise
        if "failed" in answer:
            raise Lost(f"{self.name}: {answer['failed']}")
        return answer

    @property
    def alive(self) -> bool:
        """Whether a worker is running."""
        return self._worker is not None

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def measure(row: str, packages: Sequence[Package], rounds: int) -> dict[str, Any]:
    """Compile one row in each process, then time all sides in turns. Returns what failed as "failed"."""
    started = time.monotonic()
    result: dict[str, Any] = {"name": row, "sides": {}}
    try:
        for package in packages:
            result["sides"][package.name] = package.ask(COMPILE_S, do="prepare", row=row)
        result["compiled_s"] = round(time.monotonic() - started, 1)
        samples = in_turns(packages, rounds)
        result["us"] = {way: {side: quartiles(own) for side, own in sides.items()} for way, sides in samples.items()}
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


def in_turns(packages: Sequence[Package], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return samples in us by way and side. The replays are those of five captures, each in its part of the rounds."""
    sides = [(package, side) for package in packages for side in SIDES[package.name]]
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for current in range(rounds):
        if current and current % max(1, -(-rounds // CAPTURES)) == 0:
            for package in packages:
                package.ask(do="capture")
        for way, repeats in REPEATS.items():
            for package, side in sides:
                own = "ours" if side == package.name else "serial"
                samples[way][side].append(package.ask(do="time", way=way, side=own, repeats=repeats)["us"])
    return samples


def quartiles(samples: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    from graphstreams.benchmark.results import summary

    return summary(samples)


def ratio(row: Mapping[str, Any], way: str, side: str, against: str) -> float | None:
    """Return how many times faster one side is than another; None if either was not timed."""
    times = row.get("us", {}).get(way, {})
    return times[against]["median"] / times[side]["median"] if side in times and against in times else None


def failures(row: Mapping[str, Any]) -> list[str]:
    """Return what of a row does not hold, as text."""
    if "failed" in row:
        return [row["failed"]]
    bars = [("direct", SERIAL, DIRECT_BAR), ("graph", SERIAL, DIRECT_BAR), ("graph", OLD, GRAPH_BAR)]
    found = []
    for way, against, bar in bars:
        value = ratio(row, way, NEW, against)
        if value is not None and value < bar:
            found.append(f"{way}: {value:.3f}x of {against}, less than {bar}")
    wrong = row["sides"].get(NEW, {}).get("wrong", {})
    return found + [f"{way}: other bits in {count} runs" for way, count in wrong.items() if count]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a markdown table, one line a row."""
    headers = ["row", "serial direct us", "new", "old", "host us", "new", "old", "serial graph us", "new", "old", "new/old",
               "serials", "verdict", "does not hold"]  # fmt: skip
    lines = []
    for row in rows:
        line = [row["name"]]
        for way in ("direct", "host", "graph"):
            serial = row.get("us", {}).get(way, {}).get(SERIAL)
            line.append(f"{serial['median']:.1f}" if serial else "-")
            line += [_times(ratio(row, way, NEW, SERIAL)), _times(ratio(row, way, OLD, OLD_SERIAL))]
        told = row.get("sides", {}).get(NEW, {})
        reason = f" ({one_line(told['reason'], 60)})" if told.get("reason") else ""
        versions = [_times(ratio(row, "graph", NEW, OLD)), _times(ratio(row, "graph", SERIAL, OLD_SERIAL))]
        lines.append([*line, *versions, f"{told.get('verdict', '-')}{reason}", "; ".join(failures(row))])
    legend = (
        "Serial in us, all else how many times faster: new and old than serial in their process. Host: until a call returns. "
        "Serials: the same code in both processes, so what it is off from 1 is no difference of versions."
    )
    return f"{tabulate(lines, headers, tablefmt='github', disable_numparse=True)}\n\n{legend}\n"


def _times(value: float | None) -> str:
    return f"{value:.3f}x" if value is not None else "-"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=f"of {', '.join(ROWS)}")
    add("--baseline", type=Path, help="an older checkout of this repository, to be timed beside this one")
    add("--rounds", type=int, default=30, help="rounds of timing, over five captures (default 30)")
    add("--settings", choices=("deterministic", "default"), default="deterministic", help="of Inductor, for every side")
    add("--limit", type=float, help="seconds after which no further row is begun")
    add("--out", type=Path, default=Path("direct"), help="directory for direct.md and direct.json (default direct)")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error("--rounds has to be at least 2")
    if arguments.baseline and not (arguments.baseline / "graphstreams" / "__init__.py").is_file():
        parser.error(f"--baseline: there is no package graphstreams in {arguments.baseline}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 without a GPU, 1 if a row failed or does not hold."""
    arguments = parse_args(argv)
    if arguments.worker:
        from direct_worker import Row

        serve(Row(arguments.settings))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("direct needs a CUDA device", file=sys.stderr)
        return 2
    from graphstreams.benchmark.results import environment, write

    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    packages = [Package(NEW, ROOT, arguments)]
    if arguments.baseline:
        packages.append(Package(OLD, arguments.baseline, arguments))
    rows: list[dict[str, Any]] = []
    for name in arguments.rows:
        if arguments.limit and time.monotonic() - started > arguments.limit:
            rows.append({"name": name, "failed": f"not run: {arguments.limit:.0f} s had passed"})
        else:
            rows.append(measure(name, packages, arguments.rounds))
        seconds = round(time.monotonic() - started, 1)
        print(f"[{seconds:.0f} s] {table(rows[-1:]).splitlines()[2]}", flush=True)
        result = {**environment(), "seconds": seconds, "rounds": arguments.rounds, "rows": rows}
        write(result, table(rows), arguments.out / "direct")
    for package in packages:
        package.close()
    print(f"\n{table(rows)}\nwritten to {arguments.out}/direct.md and direct.json after {seconds:.0f} s")
    return int(any(failures(row) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
