"""Times the code that was generated for a plan, in turns with Inductor's serial code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph
from graphstreams.autotuning.plan_benchmark import SEARCH_SECONDS, PlanBenchmark
from graphstreams.autotuning.timing import DISCARDED, LONG_ROUNDS, means_within, repeats_within
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.measurement import Measurement


def time_generated_code(benchmark: PlanBenchmark, source: str, serial: Lowered, measurement: Measurement) -> Measurement:
    """Return the measurement with the times of the code that was generated for the plan, and of Inductor's serial code.

    `source` is the wrapper with both bodies, in which every call runs the streamed one; `serial` is the graph as Inductor has
    lowered it. Both are timed as CUDA graphs, in turns with the serial graph of replayed kernels. Their times are scaled to
    that graph's time in `measurement`, because the GPU's clock may differ now. Both are also timed as the host launches them.
    """

    def caller(text: str) -> Callable[[], Any]:
        call = load_call(text, serial.graph.constants)
        return lambda: call(list(benchmark.arguments))

    functions = [caller(source), caller(serial.source)]
    captures: list[Callable[[], CudaGraph]] = [partial(benchmark.replayer.capture_call, function) for function in functions]
    captures.insert(0, benchmark.capture_serial)
    with torch.no_grad():
        replayed_us, streamed_us, inductor_us = means_within(SEARCH_SECONDS / 4, captures, measurement.serial_us)
        direct_us, direct_serial_us = _direct_times(benchmark, functions)
    scale = measurement.serial_us / replayed_us
    return replace(
        measurement, compiled_us=streamed_us * scale, inductor_us=inductor_us * scale,
        direct_us=direct_us, direct_serial_us=direct_serial_us,
    )  # fmt: skip


def _direct_times(benchmark: PlanBenchmark, functions: Sequence[Callable[[], Any]]) -> list[float]:
    (once,) = benchmark.replayer.direct_times(functions[:1], 1, 1)
    calls = len(functions) * (LONG_ROUNDS + DISCARDED)
    repeats = repeats_within(SEARCH_SECONDS / 8, once, calls, 20)
    return benchmark.replayer.direct_times(functions, LONG_ROUNDS, repeats)


def load_call(source: str, constants: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    """Return the function of a wrapper, compiled and loaded. It takes the list of the graph's inputs and empties it."""
    module = ModuleType("graphstreams_wrapper")
    exec(compile(source, "<wrapper>", "exec"), module.__dict__)
    vars(module).update(constants)
    return module.call  # type: ignore[no-any-return]
