"""Times functions and CUDA graphs on the GPU at hand, always in turns: a clock that drifts does so for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph

DISCARDED = 2  # rounds before those that count
CAPTURES = 3  # captures of each graph if its time decides
ROUNDS, LONG_ROUNDS = 5, 11  # for one of several captures, and for an only one


def device_us(function: Callable[[], Any], repeats: int) -> float:
    """Return the us that the GPU takes for `repeats` calls, measured with CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000


def host_us(function: Callable[[], Any], repeats: int) -> float:
    """Return the us of the host until `repeats` calls have returned, whose kernels may still run.

    The GPU is idle when they begin. Together they should make less than about a thousand launches, because with more the host
    waits until the GPU has taken some.
    """
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - started) * 1e6


def times_in_turns(
    functions: Sequence[Callable[[], Any]],
    rounds: int,
    repeats: int,
    us_of: Callable[[Callable[[], Any], int], float] = device_us,
) -> list[list[float]]:
    """Return samples of the time of one call of each function in us, one a round, by the clock `us_of`.

    A sample is the mean of `repeats` calls. DISCARDED rounds before the first do not count.
    """
    found = [[us_of(function, repeats) / repeats for function in functions] for _ in range(rounds + DISCARDED)]
    return [list(samples) for samples in zip(*found[DISCARDED:], strict=True)]


def medians_in_turns(graphs: Sequence[CudaGraph], rounds: int = 7, repeats: int = 10) -> list[float]:
    """Return the median time of one replay of each graph in us, without the graph's `overhead_us`."""
    samples = times_in_turns([graph.replay for graph in graphs], rounds, repeats)
    return [statistics.median(own) - graph.overhead_us for graph, own in zip(graphs, samples, strict=True)]


def means_over_captures(
    captures: Sequence[Callable[[], CudaGraph]],
    rounds: int,
    repeats: int,
    count: int = CAPTURES,
    enough: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Return the time in us of one replay of what each function captures: the mean of medians over `count` captures.

    Two captures of the same launches differ by up to 2 % if there are branches (H200), which is more than good plans differ.
    There is one capture at least, and no further one once `enough` returns True.
    """
    found: list[list[float]] = []
    while not found or (len(found) < count and not enough()):
        found.append(medians_in_turns([capture() for capture in captures], rounds, repeats))
    return [statistics.fmean(own) for own in zip(*found, strict=True)]


def means_within(seconds: float, captures: Sequence[Callable[[], CudaGraph]], replay_us: float) -> list[float]:
    """Return times as `means_over_captures` does, in about `seconds` if replays take about `replay_us` us.

    Slow replays are repeated less often, and slow replays or captures are captured less often.
    """
    count = repeats_within(seconds, replay_us, len(captures) * (ROUNDS + DISCARDED), CAPTURES)
    rounds = ROUNDS if count > 1 else LONG_ROUNDS
    repeats = repeats_within(seconds, replay_us, count * len(captures) * (rounds + DISCARDED), 20)
    ends = time.monotonic() + seconds
    return means_over_captures(captures, rounds, repeats, count, lambda: time.monotonic() > ends)


def repeats_within(seconds: float, us: float, calls: int, most: int) -> int:
    """Return how often each of `calls` calls that take `us` us can be repeated in `seconds`, from once to `most` times."""
    return max(1, min(most, int(seconds * 1e6 / (us * calls))))


def intervals_in_replays(graph: CudaGraph, events: Sequence[torch.cuda.Event], replays: int) -> list[float]:
    """Return the median time in us between each two successive events that `graph` records, over `replays` replays."""
    samples = []
    for _ in range(replays + 3):  # of which the first three do not count
        graph.replay()
        torch.cuda.synchronize()
        samples.append([earlier.elapsed_time(later) * 1000 for earlier, later in pairwise(events)])
    return [statistics.median(own) for own in zip(*samples[3:], strict=True)]
