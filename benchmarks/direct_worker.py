"""Compile one module with one version of the package, and time it on request: a process of `direct.py`.

Of the package it uses only the backend `graphstreams.graphstreams` and the files of a report, so that it runs with other
versions too.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from direct_side import Side, equal_bits, no_collection
from loaded_code import forget_loaded_code
from torch._inductor.custom_graph_pass import CustomGraphPass
from workers import serve

SEEDS = 3  # of inputs on which bits are compared
UNCOUNTED = 3  # samples before those that count
FEWEST_PAIRS = 30  # that are timed whatever the limit
REPORTED = ("verdict", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured", "notes")

# Names of the samples of each pair.
PAIRS = (("serial", "ours"), ("second serial", "second ours"), ("control", "control again"))
Sample = tuple[float, float]  # us of a call until the GPU is done with it, and until it returns


def made(row: str) -> tuple[torch.nn.Module, Callable[[int], Sequence[Any]]]:
    """Return a row's module and the maker of its inputs, on the GPU."""
    from deepseek_workloads import WORKLOADS
    from more_modules import MORE

    return MORE[row]() if row in MORE else WORKLOADS[row].make()


def time_calls(function: Callable[[], Any], calls: int) -> Sample:
    """Return the mean times of one of `calls` calls, which an idle GPU gets one after another."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began = time.perf_counter()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    returned = time.perf_counter() - began
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / calls, returned * 1e6 / calls


def paired_samples(
    pairs: Sequence[Sequence[Callable[[], Any]]], count: int, seconds: float, sample: Callable[[Callable[[], Any]], Sample]
) -> list[list[list[Sample]]]:
    """Return for each pair of functions the samples of the first and of the second, `count` of each.

    The two samples of a pair follow each other, each time in the other order. After so many seconds there are no more samples
    than FEWEST_PAIRS.
    """
    found: list[list[list[Sample]]] = [[[], []] for _ in pairs]
    began = time.perf_counter()
    for number in range(-UNCOUNTED, count):
        if number >= FEWEST_PAIRS and time.perf_counter() - began > seconds:
            break
        for pair, own in zip(pairs, found, strict=True):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                us = sample(pair[place])
                if number >= 0:
                    own[place].append(us)
    return found


class Nothing(CustomGraphPass):
    """A pass that does nothing, with which Inductor compiles a graph anew that it has compiled without."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Leave the graph as it is."""

    def uuid(self) -> str:
        """Identify the pass in cache keys."""
        return "benchmarks.direct_worker.Nothing"


class Row:
    """The handler of the requests "prepare", "pairs", "replay", "capture" and "drop"."""

    def __init__(self, deterministic: bool) -> None:
        """Compile with Inductor's setting of that name, or without."""
        self._settings = {"deterministic": deterministic}
        self._sides: dict[str, Side] = {}
        self._between = "ours"
        gc.freeze()

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer to a request. Raises what compiling, capturing or calling raises."""
        with torch.no_grad():
            answer: Mapping[str, Any] = getattr(self, f"_{request['do']}")(request)
            torch.cuda.synchronize()
        return answer

    def _prepare(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Compile and capture both sides, "between" between two compiles of the other. Count the runs with other bits."""
        self._drop(request)
        self._between = request["between"]
        started = time.perf_counter()
        module, inputs = made(request["row"])
        values, told = inputs(0), {}
        for name in {"ours": ("serial", "ours", "again"), "serial": ("ours", "serial", "again")}[self._between]:
            forget_loaded_code()
            if name == "ours" or (name == "again" and self._between == "serial"):
                compiled, told = self._ours(module, values)
            else:
                anew = {"post_grad_custom_post_pass": Nothing()} if name == "again" else {}
                compiled = Side(torch.compile(module, options={**self._settings, **anew}), values)
            self._sides[name] = compiled
        wrong = {way: sum(not self._equal(inputs(seed), way) for seed in range(1, SEEDS + 1)) for way in ("graph", "direct")}
        for side in self._sides.values():
            side.load(values)
        package = sys.modules["graphstreams"].__file__
        return {**told, "package": package, "wrong": wrong, "seconds": round(time.perf_counter() - started, 1)}

    def _ours(self, module: torch.nn.Module, values: Sequence[Any]) -> tuple[Side, dict[str, Any]]:
        """Return a side that the backend compiles, and what its report says."""
        from graphstreams import graphstreams

        with tempfile.TemporaryDirectory() as directory:
            options: dict[str, Any] = {"inductor": dict(self._settings), "dump": directory}
            side = Side(torch.compile(module, backend=graphstreams, options=options), values)
            return side, report_in(Path(directory))

    def _equal(self, values: Sequence[Any], way: str) -> bool:
        return equal_bits(*(self._sides[side].results(values, way) for side in ("serial", "ours")))

    def _pairs(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Time direct calls of ours beside serial, with the side that was compiled twice in two pairs, and its two compiles.

        What one and the same code takes depends on when a process has compiled it; the third pair tells how much.
        """
        serial, ours, again = (self._sides[side].direct for side in ("serial", "ours", "again"))
        second, control = ((again, ours), (serial, again)) if self._between == "ours" else ((serial, again), (ours, again))
        with no_collection():
            found = paired_samples(
                ((serial, ours), second, control),
                request["pairs"],
                request["seconds"],
                lambda function: time_calls(function, request["calls"]),
            )
        samples = {name: own for pair, both in zip(PAIRS, found, strict=True) for name, own in zip(pair, both, strict=True)}
        ways = enumerate(("direct", "host"))
        return {way: {name: [us[place] for us in own] for name, own in samples.items()} for place, way in ways}

    def _replay(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Time one batch of replays; one before it does not count, because the other process had the GPU."""
        replay = self._sides[request["side"]].replay
        _, (us, _) = (time_calls(replay, request["repeats"]) for _ in range(2))
        return {"us": us}

    def _capture(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        for side in self._sides.values():
            side.capture()
        return {}

    def _drop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._sides.clear()
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
        return {}


def report_in(directory: Path) -> dict[str, Any]:
    """Return what the report on the largest graph says; another version of the package may say less."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*/report.json")]
    if not reports:
        return {"verdict": "unknown", "reason": "graphstreams saw no graph"}
    largest = max(reports, key=lambda report: report["kernels_serial"])
    return {name: largest.get(name) for name in REPORTED}


if __name__ == "__main__":
    serve(Row(deterministic=sys.argv[1] == "deterministic"))
