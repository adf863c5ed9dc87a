"""Prepare workers side by side, then ask them one at a time, so that what is timed has the GPU for itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workers import Lost, Worker, environment_of
from benchmarks.zoo.run import ROOT, last_line

Request = Mapping[str, Any]
Answer = dict[str, Any]


def threads_of(jobs: int) -> int:
    """Return how many threads each of `jobs` workers may compile by: its share of the cores, and at least two."""
    return max(2, (os.cpu_count() or 1) // max(1, jobs))


@dataclass(frozen=True)
class Lane:
    """How workers are started, prepared and asked."""

    module: str  # what Python runs as a worker
    folder: Path  # for what they print
    jobs: int = 6  # prepared at a time
    prepare_s: float = 240.0
    limit_s: float = 120.0  # for one measurement
    gpu: int | None = None  # the only one that workers see; all of them by default
    threads: int = 2  # by which each worker compiles kernels

    def prepare(self, requests: Mapping[str, Request]) -> dict[str, Worker | str]:
        """Return, by name, the worker that has been prepared, or what failed."""
        with ThreadPoolExecutor(max(1, self.jobs)) as pool:
            return dict(zip(requests, pool.map(self._prepared, requests, requests.values()), strict=True))

    def measure(self, name: str, worker: Worker, request: Request) -> Answer:
        """Return a worker's answer with the seconds that it took, or what "failed". A worker that gives none is ended."""
        started = time.monotonic()
        answer = self._asked(name, worker, request, self.limit_s)
        return {**answer, "seconds": round(time.monotonic() - started, 1)}

    def _prepared(self, name: str, request: Request) -> Worker | str:
        others = {
            "HF_HUB_OFFLINE": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": str(self.threads),
            "OMP_NUM_THREADS": "1",
        }
        if self.gpu is not None:
            others["CUDA_VISIBLE_DEVICES"] = str(self.gpu)
        log = self.folder / f"{name}.log"
        worker = Worker([sys.executable, "-m", self.module], environment_of(ROOT, others), log)
        answer = self._asked(name, worker, request, self.prepare_s)
        if "failed" not in answer:
            return worker
        worker.close()
        return str(answer["failed"])

    def _asked(self, name: str, worker: Worker, request: Request, limit_s: float) -> Answer:
        try:
            answer = worker.ask(request, limit_s)
        except Lost as error:
            worker.close()  # at once, because what it holds of the GPU's memory is wanted by others
            answer = {"failed": f"{error}: {last_line(self.folder / f'{name}.log')}", "lost": True}
        if "failed" in answer:
            answer["failed"] = f"{request['do']}: {answer['failed']}"
        return answer


def run(
    lane: Lane, requests: Mapping[str, Request], measurements: Sequence[Request], budget_s: float,
    done: Callable[[str, Request, Answer], None],
) -> None:  # fmt: skip
    """Prepare a worker for each of `requests`, ask every one each of `measurements`, and call `done` with each answer.

    Every worker is asked the first measurement before any is asked the second. What would begin later than `budget_s` after the
    start is not asked, and `done` is told so.
    """
    until = time.monotonic() + budget_s
    workers = lane.prepare(requests)
    try:
        for measurement in measurements:
            for name in requests:
                done(name, measurement, _measured(lane, workers, name, measurement, until, budget_s))
    finally:
        for worker in workers.values():
            if not isinstance(worker, str):
                worker.close()


def _measured(
    lane: Lane, workers: dict[str, Worker | str], name: str, measurement: Request, until: float, budget_s: float
) -> Answer:  # fmt: skip
    """Return an answer. The worker of one that was lost becomes the reason."""
    worker = workers[name]
    if isinstance(worker, str):
        return {"failed": worker}
    if time.monotonic() > until:
        return {"failed": f"not measured: {budget_s:.0f} s were over"}
    answer = lane.measure(name, worker, measurement)
    if answer.pop("lost", False):
        workers[name] = answer["failed"]
    return answer
