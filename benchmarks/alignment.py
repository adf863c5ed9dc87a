"""Compare runs on inputs past an aligned address with serial Inductor: a table of kinds of input, offsets and ways to run.

    python benchmarks/alignment.py --out alignment

Needs a GPU, and about 16 cores to be done in 100 s. Offsets are in elements, in the call that is compiled for and in the call
that is compared. An error like "misaligned address" ends its process, so workers run everything, and the loss of one costs the
later cells of its group. Nothing is timed. A cell is right if it has serial's bits or if serial fails too. Serial runs in the
same way: called, captured by hand, or with Inductor's own CUDA graphs. Exit status 1: a cell is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from misaligned import KINDS
from tabulate import tabulate
from workers import Lost, RestartedWorker, Worker, environment_of, one_line, serve

from graphstreams.benchmark.results import environment, write
from graphstreams.benchmark.run import has_gpu

ROOT = Path(__file__).parents[1]
OFFSETS = (0, 1, 3, 8)
# How serial runs for each way: the same way, or called directly if it has no such way. Only captured calls use streams.
SERIAL_WAY = {
    "direct": "direct",
    "from a cache": "direct",
    "StreamPass": "direct",
    "captured by hand": "captured by hand",
    "from a cache, captured": "captured by hand",
    "StreamPass, captured": "captured by hand",
    "reduce-overhead": "reduce-overhead",
}
WAYS = tuple(SERIAL_WAY)
RIGHT = ("equal", "serial fails")
OPTIONS: dict[str, Any] = {"min_gain": 0.0, "costs": "roofline"}
ANSWER_S = 90.0


@dataclass(frozen=True)
class Cell:
    """One comparison. Offsets are in elements past an aligned address."""

    kind: str
    dtype: str
    compiled_at: int
    called_at: int
    way: str
    status: str = "not run"  # "equal", "differs", "raised", "lost", "serial fails", "not run"
    told: str = ""  # the backend's verdict on the graph, or the error

    @property
    def right(self) -> bool:
        """Return whether the cell has serial's bits, or serial fails too."""
        return self.status in RIGHT


def groups(kinds: Sequence[str], ways: Sequence[str] = WAYS) -> list[list[Cell]]:
    """Return the cells of each kind, dtype and offset in the compile; the graphs of a group are compiled once."""
    found = []
    for dtype in ("bf16", "fp32", "fp8", "int8"):
        for name in kinds:
            kind = KINDS[name]
            pairs = kind.offsets or [(0, called) for called in OFFSETS] + [(1, called) for called in OFFSETS]
            for compiled_at in dict.fromkeys(first for first, _ in pairs):
                called = [second for first, second in pairs if first == compiled_at]
                if dtype in kind.dtypes:
                    found.append([Cell(name, dtype, compiled_at, offset, way) for way in ways for offset in called])
    return found


class CellRunner:
    """A runner of the cells of groups, in one worker after another."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        """`start` returns a new Worker."""
        self._worker = RestartedWorker(start)

    def run(self, cells: Sequence[Cell]) -> Iterator[Cell]:
        """Yield each cell with its status. After a loss the other cells that run in the same way are left out."""
        lost: set[tuple[str, str]] = set()
        serial: dict[tuple[str, int], str] = {}  # how serial failed, by its way and the offset in the call
        for cell in cells:
            way = SERIAL_WAY[cell.way]
            if ("ours", cell.way) in lost:
                yield replace(cell, told="this way was lost before")
                continue
            key = (way, cell.called_at)
            if key not in serial:
                skipped = ("serial", way) in lost
                serial[key] = "serial was lost before" if skipped else self._serial(cell, lost)
            if serial[key]:
                yield replace(cell, status="not run" if "before" in serial[key] else "serial fails", told=serial[key])
            else:
                yield self._ours(cell, lost)

    def all(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return each cell with its status, "not run" if this benchmark itself fails on them."""
        found = []
        try:
            for cell in self.run(cells):
                found.append(cell)
        except Exception as error:
            traceback.print_exc()
            found += [replace(cell, told=one_line(f"{type(error).__name__}: {error}")) for cell in cells[len(found) :]]
        return found

    def _serial(self, cell: Cell, lost: set[tuple[str, str]]) -> str:
        try:
            return str(self._ask(cell, "serial").get("failed", ""))
        except Lost as error:
            lost.add(("serial", SERIAL_WAY[cell.way]))
            return f"lost: {error}"

    def _ours(self, cell: Cell, lost: set[tuple[str, str]]) -> Cell:
        try:
            answer = self._ask(cell, "ours")
        except Lost as error:
            lost.add(("ours", cell.way))
            return replace(cell, status="lost", told=str(error))
        if "failed" in answer:
            return replace(cell, status="raised", told=answer["failed"])
        return replace(cell, status="equal" if answer["equal"] else "differs", told=answer["told"])

    def _ask(self, cell: Cell, side: str) -> dict[str, Any]:
        return self._worker.ask({**asdict(cell), "side": side}, ANSWER_S)

    def close(self) -> None:
        """End the worker, if there is one."""
        self._worker.close()


def run(arguments: argparse.Namespace, save: Callable[[Sequence[Cell]], None]) -> list[Cell]:
    """Run all cells in parallel workers. For each group print a line, and save all that is done.

    After the time limit no group is begun.
    """
    started = time.monotonic()
    waiting = groups(arguments.kinds, arguments.ways)
    done: list[Cell] = []
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as cache:
        variables = environment_of(ROOT, {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"})
        options = json.dumps(arguments.options)
        command = [sys.executable, __file__, "--worker", "--device", arguments.device, "--options", options]
        log = arguments.out / "workers.log"

        def work() -> None:
            runner = CellRunner(lambda: Worker(command, variables, log))
            while True:
                with lock:
                    if not waiting:
                        break
                    cells = waiting.pop(0)
                late = time.monotonic() - started > arguments.limit
                found = [replace(cell, told="the time was over") for cell in cells] if late else runner.all(cells)
                with lock:
                    done.extend(found)
                    save(done)
                    seconds = time.monotonic() - started
                    print(f"[{seconds:.0f} s] {cells[0].kind}, {cells[0].dtype}, compiled at {cells[0].compiled_at}: "
                          f"{counted(found)}", flush=True)  # fmt: skip
            runner.close()

        threads = [threading.Thread(target=work) for _ in range(arguments.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return done


def counted(cells: Sequence[Cell]) -> str:
    """Return how many cells have each status."""
    return ", ".join(f"{count} {status}" for status, count in Counter(cell.status for cell in cells).most_common())


def table(cells: Sequence[Cell], ways: Sequence[str] = WAYS) -> str:
    """Return a markdown table, a line for each kind and dtype: right cells of each way, and where the others are."""
    lines = []
    for kind, dtype in dict.fromkeys((cell.kind, cell.dtype) for cell in sorted(cells, key=_place)):
        row = [kind, dtype]
        for way in ways:
            own = [cell for cell in cells if (cell.kind, cell.dtype, cell.way) == (kind, dtype, way)]
            row.append(_entry(own))
        lines.append(row)
    text = "# Misaligned inputs\n\n" + tabulate(lines, ["input", "dtype", *ways], tablefmt="github", disable_numparse=True)
    legend = "Right cells / cells; then each that is not: offset in the compile > offset in the call, in elements."
    failing = sorted({f"- {cell.way}: {cell.status}: {cell.told}" for cell in cells if cell.status not in ("equal", "not run")})
    return f"{text}\n\n{legend}\n\n{counted(cells)}\n\n" + "\n".join(failing) + "\n"


def _place(cell: Cell) -> tuple[int, int]:
    return list(KINDS).index(cell.kind), list(("bf16", "fp32", "fp8", "int8")).index(cell.dtype)


def _entry(cells: Sequence[Cell]) -> str:
    marks = [f"{c.compiled_at}>{c.called_at} {c.status}" for c in cells if c.status != "equal"]
    return f"{sum(cell.right for cell in cells)}/{len(cells)}" + "".join(f"; {mark}" for mark in marks)


def verdicts(cells: Sequence[Cell]) -> Mapping[str, int]:
    """Return how often the backend gave each verdict, because a table of graphs that all ran serially proves nothing."""
    return Counter(f"{cell.way}: {cell.told}" for cell in cells if cell.status == "equal")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=f"of {'; '.join(KINDS)}")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=f"of {'; '.join(WAYS)}")
    workers = max(1, min(10, (os.cpu_count() or 1) // 2))
    add("--workers", type=int, default=workers, help="processes (default: one for two cores, at most 10)")
    add("--limit", type=float, default=100.0, help="seconds after which no group is begun (default 100)")
    add("--options", type=json.loads, default=OPTIONS, help=f"of graphstreams, as JSON (default {json.dumps(OPTIONS)})")
    add("--device", default="cuda", help="cpu tries the benchmark itself: nothing is streamed there")
    add("--out", type=Path, default=Path("alignment"), help="directory for alignment.md and alignment.json")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error("--workers has to be at least 1")
    if arguments.device == "cpu":
        arguments.ways = [way for way in arguments.ways if SERIAL_WAY[way] == "direct"]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table. Return 2 without a GPU, 1 if a cell is wrong, lost or was not run."""
    arguments = parse_args(argv)
    if arguments.worker:
        from alignment_worker import Sides

        serve(Sides(arguments.device, arguments.options))
        return 0
    if arguments.device == "cuda" and not has_gpu("alignment"):
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    place = environment() if arguments.device == "cuda" else {"device": "cpu"}

    def save(cells: Sequence[Cell]) -> None:
        result = {**place, "seconds": round(time.monotonic() - started, 1), "cells": [asdict(cell) for cell in cells]}
        write({**result, "told": verdicts(cells)}, table(cells, arguments.ways), arguments.out / "alignment")

    cells = run(arguments, save)
    print(f"\n{table(cells, arguments.ways)}")
    for told, count in sorted(verdicts(cells).items()):
        print(f"{count:4} {told}")
    print(f"written to {arguments.out}/alignment.md and alignment.json after {time.monotonic() - started:.0f} s")
    return int(not all(cell.right for cell in cells))


if __name__ == "__main__":
    raise SystemExit(main())
