"""Plan many cases, each in a process of its own with a time limit, and keep every record as soon as there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workers import Lost, Worker, environment_of, one_line

ROOT = Path(__file__).resolve().parents[2]
WORKER = ("-m", "benchmarks.zoo.worker")
AGAIN = ("crashed", "too slow", "not built")  # verdicts of cases that are planned once more when the command is given again
Record = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How cases are planned."""

    limit: float = 600.0  # seconds for a case
    jobs: int = 1  # cases at a time
    bits: bool = True  # whether tiny sizes are compared on the CPU
    worker: Sequence[str] = WORKER  # what Python runs as a worker


def planned(name: str, way: Way) -> Record:
    """Return the record of one case. A process that ends or takes too long makes a record that says so."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        worker = Worker([sys.executable, *way.worker], _environment(way.jobs), log)
        try:
            answer = worker.ask({"case": name, "bits": way.bits}, way.limit)
        except Lost as error:
            slow = str(error).startswith("no answer")
            said = "" if slow else last_line(log)
            reason = f"{error}: {said}" if said else str(error)
            answer = {"case": name, "verdict": "too slow" if slow else "crashed", "reason": reason, "stage": "process"}
        finally:
            worker.close()
    if "failed" in answer:
        return {"case": name, "verdict": "crashed", "reason": answer["failed"], "stage": "worker"}
    return answer


def _environment(jobs: int) -> dict[str, str]:
    """Return the environment of a worker: no GPU, nothing from the network, and its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    settings = {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    return environment_of(ROOT, settings)


def last_line(log: Path) -> str:
    """Return the last line that a worker has printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return one_line(next((line for line in reversed(lines) if line.strip()), ""))


def run(names: Sequence[str], way: Way) -> Iterator[Record]:
    """Yield the record of each case as they come."""
    with ThreadPoolExecutor(way.jobs) as pool:
        try:
            for future in as_completed([pool.submit(planned, name, way) for name in names]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def stored(path: Path, place: Mapping[str, str]) -> dict[str, Record]:
    """Return the records of an earlier run by their case; none if another commit or other versions made them."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    same = all(found.get(name) == place[name] for name in ("commit", "torch", "triton"))
    return {record["case"]: record for record in found["records"]} if same else {}


def place_of_this_run() -> dict[str, str]:
    """Return the versions of what plans, the commit of the package and the date."""
    import platform
    from datetime import date

    import torch
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    return {**versions, "commit": _commit(), "date": date.today().isoformat()}


def _commit() -> str:
    """Return the commit of the package, for changes outside of it do not change its plans; with a mark if it is changed."""
    try:
        commit = _git("log", "-1", "--format=%h", "--", "graphstreams").strip()
        return f"{commit}, changed" if _git("status", "--porcelain", "--", "graphstreams").strip() else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def run_all(
    names: Sequence[str], way: Way, stem: Path, place: Mapping[str, Any], fresh: bool,
    write: Callable[[Mapping[str, Any], Path], None], say: Callable[[str], None],
) -> list[Record]:  # fmt: skip
    """Plan the cases that no earlier run has finished, write all records after each, and return those that were asked for.

    `stem` is the path of the files without their endings. `say` is told of each case when it is planned.
    """
    records = {} if fresh else stored(stem.with_suffix(".json"), place)
    left = [name for name in names if name not in records or records[name]["verdict"] in AGAIN]
    if len(left) < len(names):
        say(f"{len(names) - len(left)} of {len(names)} cases are kept from an earlier run")
    for number, record in enumerate(run(left, way), 1):
        records[record["case"]] = record
        write({**place, "records": list(records.values())}, stem)
        say(f"[{number}/{len(left)}] {line(record)}")
    write({**place, "records": list(records.values())}, stem)
    return [records[name] for name in names]


def line(record: Record) -> str:
    """Return one line on a case, for the progress."""
    parts = [f"{record['case']}: {record['verdict']}"]
    if record.get("reason"):
        parts.append(one_line(record["reason"], 120))
    if "launches" in record:
        parts.append("launches {} > {}".format(*record["launches"]))
    if record.get("bits"):
        parts.append(f"bits {one_line(record['bits'], 80)}")
    if record.get("seconds"):
        parts.append(f"{record['seconds']['plan']:.0f} s")
    return "; ".join(parts)
