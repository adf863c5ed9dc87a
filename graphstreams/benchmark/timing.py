"""Time the variants of a workload in turns, over several captures of each CUDA graph."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from graphstreams.autotuning.timing import device_us, host_us, times_in_turns
from graphstreams.benchmark.variants import WorkloadRun

REPEATS, DIRECT_REPEATS = 20, 5  # calls in a sample
CAPTURES = 5  # of each CUDA graph that is timed: one differs from another by up to 2 %


def time_in_turns(run: WorkloadRun, values: Sequence[Any], rounds: int) -> None:
    """Add median and quartiles of each variant on `values`: as a CUDA graph and, if it is compiled, launched directly.

    Each capture of a graph is timed in its part of the rounds; the first is the one whose bits were compared. Of direct calls
    there is the time from one to the next, "direct", and the time until a call returns, "host".
    """
    for name, each in run.compiled.items():
        with run.record(name):
            # What top-k takes depends on its input, and the replayed plans still have these values.
            each.load(values)
            each.direct()
            each.load(values)
    run.drop_failed()
    samples = samples_over_captures(partial(_capture, run), rounds, REPEATS)
    for name in (*run.compiled, *run.replayed):
        run.records[name]["graph"] = summary(samples[name])
    calls = [each.direct for each in run.compiled.values()]
    direct = times_in_turns(calls, rounds, DIRECT_REPEATS)
    # One call at a time, because the GPU's queue holds about a thousand launches.
    host = times_in_turns(calls, rounds * DIRECT_REPEATS, 1, host_us)
    for way, samples_of in (("direct", direct), ("host", host)):
        for name, own in zip(run.compiled, samples_of, strict=True):
            run.records[name][way] = summary(own)


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of at least two samples, in their unit."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return {"median": round(middle, 3), "first_quartile": round(low, 3), "third_quartile": round(high, 3)}


def captures_in(rounds: int) -> int:
    """Return how often each graph is captured to be timed in so many rounds."""
    return min(CAPTURES, rounds)


def samples_over_captures(
    capture: Callable[[bool], Mapping[str, Callable[[], None]]],
    rounds: int,
    repeats: int,
    us_of: Callable[[Callable[[], Any], int], float] = device_us,
) -> Mapping[str, list[float]]:
    """Return samples of the us of one replay by name, one a round, for each capture in its part of the rounds.

    `capture` returns what replays each graph, by name. From the second call on its argument is True: it captures again.
    `us_of` is the clock, as for `times_in_turns`.
    """
    captures, samples = captures_in(rounds), defaultdict[str, list[float]](list)
    for number in range(captures):
        replays = capture(number > 0)
        timed = times_in_turns(list(replays.values()), len(range(number, rounds, captures)), repeats, us_of)
        for name, own in zip(replays, timed, strict=True):
            samples[name] += own
    return samples


def _capture(run: WorkloadRun, again: bool) -> dict[str, Callable[[], None]]:
    """Return what replays each variant, by name. With `again` compiled ones are captured anew; replayed plans always are."""
    replays: dict[str, Callable[[], None]] = {}
    for name, each in run.compiled.items():
        with run.record(name):
            if again:
                each.capture_again()
            replays[name] = each.replay
    for name, capture in run.replayed.items():
        with run.record(name):
            replays[name] = capture().replay
    run.drop_failed()
    return {name: replays[name] for name in (*run.compiled, *run.replayed)}
