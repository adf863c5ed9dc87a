"""One workload of a contest: everybody compiled, bits compared, then all timed in turns."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import clones
from graphstreams.autotuning.timing import host_times_in_turns, times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.compile_variants import enter, enter_ours, enter_player, enter_policies
from graphstreams.benchmark.results import summary
from graphstreams.benchmark.variants import SERIAL, BenchmarkSpec, CompiledVariant, Inputs, Settings, WorkloadRun
from graphstreams.inductor.compile import recompile_limit

REPEATS, DIRECT_REPEATS, DIRECT_RUNS = 20, 5, 5
Samples = Mapping[str, list[float]]
CAPTURES = 5  # of each CUDA graph that is timed: one differs from another by up to 2 %


def run_workload(
    title: str, make: Callable[[], tuple[torch.nn.Module, Inputs]], contest: BenchmarkSpec, deterministic: bool = True
) -> dict[str, Any]:
    """Everything about one workload, as plain data: "title", "rivals" by name, "seconds", and "failed" where nothing ran.

    With `deterministic` all sides are compiled with the setting of Inductor of that name, bits are compared and policies are
    played; without, each compile tunes its reductions by itself, so that only times can be compared. Never raises: what fails
    is written down and printed.
    """
    started, entrants = time.perf_counter(), WorkloadRun()
    row: dict[str, Any] = {"title": title, "rivals": entrants.rivals}
    settings = {"deterministic": deterministic}
    torch.compiler.reset()
    try:
        with torch.no_grad():
            module, inputs = make()
            _run(entrants, module, inputs, contest, settings)
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    for record in entrants.rivals.values():
        if "seconds" in record:
            record["seconds"] = round(record["seconds"], 2)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _run(entrants: WorkloadRun, module: torch.nn.Module, inputs: Inputs, contest: BenchmarkSpec, settings: Settings) -> None:
    values = inputs(0)
    if settings["deterministic"]:
        enter_player(entrants, module, values, settings)
    enter(entrants, module, values, contest.makers, settings)
    plans = enter_ours(entrants, module, values, contest.options, settings)
    if settings["deterministic"]:
        enter_policies(entrants, plans, contest)
        compare_bits(entrants, inputs, contest.replays)
    time_in_turns(entrants, values, contest.rounds)


@contextmanager
def prepared() -> Iterator[None]:
    """Settings of the process under which many rivals compile one module and capture it; a crash shows where it was."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # where standard error is no file
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


def compare_bits(entrants: WorkloadRun, inputs: Inputs, replays: int) -> None:
    """Count the runs of each compiled rival whose outputs or changed inputs have other bits than serial's."""
    for name in entrants.compiled:
        runs = {"graph": replays, "direct": min(DIRECT_RUNS, replays)}
        if name != SERIAL:
            entrants.rivals[name].update(wrong=dict.fromkeys(runs, 0), runs=runs, difference=0.0, unstable=0)
    for seed in range(1, replays + 1):
        fresh = inputs(seed)
        for way in ("graph", "direct") if seed <= DIRECT_RUNS else ("graph",):
            expected = entrants.compiled[SERIAL].results(fresh, way == "direct")
            for name, other in entrants.compiled.items():
                if name != SERIAL:
                    with entrants.entry(name) as record:
                        _compare(record, other, fresh, expected, way)
            entrants.drop_failed()


def _compare(record: dict[str, Any], other: CompiledVariant, fresh: Sequence[Any], expected: Sequence[Any], way: str) -> None:
    found = other.results(fresh, way == "direct")
    if equal_bits(expected, found):
        return
    record["wrong"][way] += 1
    record["difference"] = max(record["difference"], difference(expected, found))
    found = clones(found)
    record["unstable"] += not equal_bits(found, other.results(fresh, way == "direct"))


def difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest difference relative to the largest value of its tensor; where they are no floats, the share that differs.

    Infinite where number, type, dtype or shape of the values differ.
    """
    if len(expected) != len(found):
        return float("inf")
    return max((_apart(*pair) for pair in zip(expected, found, strict=True)), default=0.0)


def _apart(first: Any, second: Any) -> float:
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return 0.0 if type(first) is type(second) and first == second else float("inf")
    if first.shape != second.shape or first.dtype != second.dtype:
        return float("inf")
    if torch.equal(first, second):
        return 0.0
    if not first.is_floating_point():
        return float((first != second).float().mean())
    gap = float((first.float() - second.float()).abs().max() / first.float().abs().max())
    return gap if gap == gap else float("inf")


def time_in_turns(entrants: WorkloadRun, values: Sequence[Any], rounds: int) -> None:
    """Add median and quartiles of each rival on `values`, as a CUDA graph and, where it is compiled, launched directly.

    Each capture of a graph is timed in its part of the rounds; the first is the one whose bits were compared. Of direct calls
    there is the time from one to the next, "direct", and what they keep the host busy, "host".
    """
    for name, each in entrants.compiled.items():
        with entrants.entry(name):
            # What top-k takes depends on its input, and the played graphs still have these values.
            each.load(values)
            each.direct()
            each.load(values)
    entrants.drop_failed()
    samples = samples_over_captures(partial(_captured, entrants), rounds, REPEATS)
    for name in (*entrants.compiled, *entrants.played):
        entrants.rivals[name]["graph"] = summary(samples[name])
    calls = [each.direct for each in entrants.compiled.values()]
    direct = times_in_turns(calls, rounds, DIRECT_REPEATS)
    # One call at a time, for the GPU's queue holds about a thousand launches.
    host = host_times_in_turns(calls, rounds * DIRECT_REPEATS, 1)
    for way, samples_of in (("direct", direct), ("host", host)):
        for name, own in zip(entrants.compiled, samples_of, strict=True):
            entrants.rivals[name][way] = summary(own)


def captures_in(rounds: int) -> int:
    """How often each graph is captured to be timed in so many rounds."""
    return min(CAPTURES, rounds)


def samples_over_captures(captured: Callable[[bool], Mapping[str, Callable[[], None]]], rounds: int, repeats: int) -> Samples:
    """Samples of the time of one replay in us by name, one a round, for each capture in its part of the rounds.

    `captured` returns what replays each graph, by name; called with True, as it is from the second time on, a new capture.
    """
    captures, samples = captures_in(rounds), defaultdict[str, list[float]](list)
    for capture in range(captures):
        replays = captured(capture > 0)
        timed = times_in_turns(list(replays.values()), len(range(capture, rounds, captures)), repeats)
        for name, own in zip(replays, timed, strict=True):
            samples[name] += own
    return samples


def _captured(entrants: WorkloadRun, again: bool) -> dict[str, Callable[[], None]]:
    """What replays a capture of each rival, by name; with `again` a new one of those that were compiled."""
    replays: dict[str, Callable[[], None]] = {}
    for name, each in entrants.compiled.items():
        with entrants.entry(name):
            if again:
                each.capture_again()
            replays[name] = each.replay
    for name, play in entrants.played.items():
        with entrants.entry(name):
            replays[name] = play().replay
    entrants.drop_failed()
    return {name: replays[name] for name in (*entrants.compiled, *entrants.played)}
