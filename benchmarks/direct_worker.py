"""One process with one version of the package: compiles a row, captures it, and times it on request.

It uses only what versions from 0.1.0 on have: a captured function, a timer, the comparison of bits.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphstreams import graphstreams
from graphstreams.autotuning.timing import host_times_in_turns, times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.results import largest_report
from graphstreams.benchmark.run import prepared
from graphstreams.benchmark.variants import CompiledVariant

SEEDS = 3  # of inputs on which bits are compared


def made(row: str) -> tuple[torch.nn.Module, Callable[[int], Sequence[Any]]]:
    """Return a row's module and the maker of its inputs, on the GPU."""
    from more_modules import MORE

    if row in MORE:
        return MORE[row]()
    from bench_deepseek import WORKLOADS

    return WORKLOADS[row].make()


class Row:
    """Answers the requests "prepare", "time", "capture" and "drop"."""

    def __init__(self, settings: str) -> None:
        """`settings` of Inductor: "deterministic" or "default"."""
        self._settings = {"deterministic": settings == "deterministic"}
        self._sides: dict[str, CompiledVariant] = {}
        self._prepared = prepared()
        self._prepared.__enter__()

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what a request asks. Raises what compiling, capturing or calling raises."""
        with torch.no_grad():
            answer: Mapping[str, Any] = getattr(self, f"_{request['do']}")(request)
            torch.cuda.synchronize()
        return answer

    def _prepare(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._drop(request)
        started = time.perf_counter()
        module, inputs = made(request["row"])
        values = inputs(0)
        self._sides["serial"] = CompiledVariant(torch.compile(module, options=dict(self._settings)), values)
        with tempfile.TemporaryDirectory() as directory:
            options: dict[str, Any] = {"inductor": dict(self._settings), "dump": directory}
            self._sides["ours"] = CompiledVariant(torch.compile(module, backend=graphstreams, options=options), values)
            told = _verdict(Path(directory))
        seeds = range(1, SEEDS + 1)
        wrong = {way: sum(not self._equal(inputs(seed), way == "direct") for seed in seeds) for way in ("graph", "direct")}
        for each in self._sides.values():
            each.load(values)
        package = sys.modules["graphstreams"].__file__
        return {**told, "package": package, "wrong": wrong, "seconds": round(time.perf_counter() - started, 1)}

    def _equal(self, values: Sequence[Any], direct: bool) -> bool:
        return equal_bits(*(each.results(values, direct) for each in self._sides.values()))

    def _time(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """One sample; a batch before it does not count, because the other process had the GPU."""
        side, repeats = self._sides[request["side"]], request["repeats"]
        call = side.replay if request["way"] == "graph" else side.direct
        timer = host_times_in_turns if request["way"] == "host" else times_in_turns
        ((us,),) = timer([call], 1, repeats, 1)
        return {"us": us}

    def _capture(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        for each in self._sides.values():
            each.capture_again()
        return {}

    def _drop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._sides.clear()
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        return {}


def _verdict(directory: Path) -> dict[str, Any]:
    """What the report on the largest graph says; a worker of another version may know less."""
    try:
        _, report = largest_report(directory)
    except RuntimeError as error:
        return {"verdict": "unknown", "reason": str(error)}
    names = ("verdict", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured", "notes", "seconds")
    return {name: report.get(name) for name in names}
