"""TODO."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph

DISCARDED = 2  # rounds before those that count


CAPTURES = 3  # of each graph where a time decides


def times_in_turns(
    functions: Sequence[Callable[[], Any]], rounds: int, repeats: int, discarded: int = DISCARDED
) -> list[list[float]]:
    """Samples of the time of one call of each function in us, one a round, measured in turns with CUDA events.

    As many rounds as `discarded` says go before and do not count.
    """
    return _in_turns(functions, rounds, repeats, discarded, _device_us)


def host_times_in_turns(
    functions: Sequence[Callable[[], Any]], rounds: int, repeats: int, discarded: int = DISCARDED
) -> list[list[float]]:
    """As `times_in_turns`, but of the host until a call returns, when its kernels may still run.

    The GPU has nothing to do when the calls of a sample begin. With more than about a thousand launches in all of them the host
    would wait until the GPU has taken some.
    """
    return _in_turns(functions, rounds, repeats, discarded, _host_us)


def _in_turns(
    functions: Sequence[Callable[[], Any]],
    rounds: int,
    repeats: int,
    discarded: int,
    us_of: Callable[[Callable[[], Any], int], float],
) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in functions]
    for current in range(rounds + discarded):
        for function, own in zip(functions, samples, strict=True):
            us = us_of(function, repeats)
            if current >= discarded:
                own.append(us / repeats)
    return samples


def _device_us(function: Callable[[], Any], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000


def _host_us(function: Callable[[], Any], repeats: int) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - started) * 1e6


def medians_in_turns(graphs: Sequence[CudaGraph], rounds: int = 7, repeats: int = 10) -> list[float]:
    """The median time of one replay of each graph in us."""
    return [statistics.median(own) for own in times_in_turns([graph.replay for graph in graphs], rounds, repeats)]


def means_over_captures(
    captured: Sequence[Callable[[], CudaGraph]],
    rounds: int,
    repeats: int,
    captures: int = CAPTURES,
    enough: Callable[[], bool] = lambda: False,
) -> list[float]:
    """The time in us of one replay of what each function captures: medians in turns, and their mean over a few captures.

    Two captures of the same launches differ by up to 2 % where there are branches (H200), more than good plans from each other.
    Of `captures` there are fewer, but one at least, where `enough` says so.
    """
    found: list[list[float]] = []
    while not found or (len(found) < captures and not enough()):
        found.append(medians_in_turns([capture() for capture in captured], rounds, repeats))
    return [statistics.fmean(own) for own in zip(*found, strict=True)]
