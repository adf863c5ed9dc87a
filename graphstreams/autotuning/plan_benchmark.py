"""Benchmarks plans of one graph, and the code generated for one, on the GPU, in turns with its kernels on one stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph, clones, leaves
from graphstreams.autotuning.measured_search import SCREENED, MeasuredCandidate, search_by_measuring
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.timing import (
    DISCARDED,
    LONG_ROUNDS,
    ROUNDS,
    host_us,
    means_within,
    medians_in_turns,
    repeats_within,
)
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.caller_stream import exchanged
from graphstreams.planning.neighborhood import HIGH_PRIORITY, SearchSpace

log = logging.getLogger("graphstreams")

# Kernels in all the plans that one search measures, screened plans and top candidates apart: of large graphs it measures less.
MEASURED_KERNELS = 20_000
FEWEST_PLANS = 4
# Kernels of a graph and plans to measure, up to which plans are screened: to capture several times as many takes time, and with
# 64 plans screening found nothing more (docs/measurements.md).
SCREENING_KERNELS, SCREENING_PLANS = 125, 32
SEARCH_SECONDS = 4.0  # half to measure plans, a quarter each to measure the top candidates again and the generated code
SCREENING_ROUNDS = 3
TOP_CANDIDATES = 6  # plans that are measured again, for longer, before one is chosen
BEHIND_PLANS, BEHIND = 8, 1.05  # plans after which a search ends whose best one takes so many times what there is to beat
PRIORITIZED = 4  # how many of these are measured with priorities too
TIE_RATIO = 1.002  # times the fastest, within which the plan with the fewest records and waits is taken


class PlanBenchmark:
    """The compiled kernels of one graph, to benchmark plans with. It holds their memory."""

    def __init__(self, replayer: KernelReplayer, arguments: Sequence[Any], order: Sequence[int], options: Options) -> None:
        """`arguments` are what the graph's code is called with, `order` has the kernels in serial order."""
        self.replayer, self._arguments, self._options = replayer, arguments, options
        self._capture_serial: Callable[[], CudaGraph] = partial(replayer.capture_serial, order)

    def part(self, kernels: Sequence[int]) -> PlanBenchmark | None:
        """Return what times plans of some of the kernels, numbered from 0 in serial order; None if they can't be run apart."""
        replayer = self.replayer.part(kernels)
        return PlanBenchmark(replayer, self._arguments, range(len(kernels)), self._options) if replayer else None

    @cached_property
    def _serial(self) -> CudaGraph:
        return self._capture_serial()

    @cached_property
    def _serial_us(self) -> float:
        (once,) = medians_in_turns([self._serial], 1, 1)
        return medians_in_turns([self._serial], 9, repeats_within(SEARCH_SECONDS / 8, once, 9 + DISCARDED, 20))[0]

    def search(self, space: SearchSpace, first: Sequence[Plan] = (), beat_us: float | None = None) -> tuple[Plan, Measurement]:
        """Return the fastest plan that a search measured, with its measurement. The search measures the plans of `first` too.

        It ends after about SEARCH_SECONDS; of a graph that takes long it measures fewer plans, and so it does if the best of
        the first BEHIND_PLANS takes over BEHIND times `beat_us` us.
        """
        kernels, _ = len(space.us), self._serial_us  # measured first, because it does not count as time of the search
        ends = time.monotonic() + SEARCH_SECONDS / 2
        count = min(self._options.search, max(FEWEST_PLANS, MEASURED_KERNELS // max(1, kernels)))
        screen = self._screen if kernels <= SCREENING_KERNELS and count <= SCREENING_PLANS else None
        measured: list[float] = []

        def measure(plan: Plan) -> float:
            measured.append(self._measure(plan))
            return measured[-1]

        def behind() -> bool:
            return beat_us is not None and len(measured) >= BEHIND_PLANS and min(measured) > BEHIND * beat_us

        found = search_by_measuring(space, measure, count, 0, first, lambda: behind() or time.monotonic() > ends, screen)
        plan, measurement = self.fastest(self._top_candidates(space, found))
        plans = tuple((round(each.plan.streamed_us, 2), round(each.measured_us, 2)) for each in found)
        return plan, replace(measurement, tried=len(found), plans=plans)

    def fastest(self, plans: Sequence[Plan]) -> tuple[Plan, Measurement]:
        """Return the fastest of a few plans, over several captures, with its measurement. Of equals the simplest is taken."""
        seconds, serial_us, priority = SEARCH_SECONDS / 4, self._serial_us, self._options.priority
        if priority is not None:
            plans = [replace(plan, priority=priority) for plan in plans]
        # If a replay takes long, there is time only for the first plans.
        most = max(1, int(seconds * 1e6 / (serial_us * (LONG_ROUNDS + DISCARDED))) - 1)
        captures: list[Callable[[], CudaGraph]] = [partial(self.replayer.capture_plan, plan) for plan in plans[:most]]
        serial_us, *times = means_within(seconds, [self._capture_serial, *captures], serial_us)
        ties = [i for i, us in enumerate(times) if us <= TIE_RATIO * min(times)]
        best = min(ties, key=lambda i: (plans[i].synchronizations, -plans[i].priority, times[i]))
        return plans[best], Measurement(serial_us, times[best], tried=len(plans))

    def time_generated_code(self, source: str, serial: Lowered, measurement: Measurement) -> Measurement:
        """Return the measurement with the times of the code that was generated for the plan, and of Inductor's serial code.

        `source` is the wrapper with both bodies, in which every call runs the streamed one; `serial` is the graph as Inductor
        has lowered it. Both are timed as CUDA graphs, in turns with the serial graph of replayed kernels. Their times are
        scaled to that graph's time in `measurement`, because the GPU's clock may differ now. Both are also timed as the host
        launches them, and until a call of the first returns.
        """
        functions = [self._caller(source, serial), self._caller(serial.source, serial)]
        code: list[Callable[[], CudaGraph]] = [partial(self.replayer.capture_call, function) for function in functions]
        with torch.no_grad():
            replayed_us, streamed_us, inductor_us = means_within(
                SEARCH_SECONDS / 4, [self._capture_serial, *code], measurement.serial_us
            )
            (once,) = self.replayer.direct_times(functions[:1], 1, 1)
            repeats = repeats_within(SEARCH_SECONDS / 8, once, len(functions) * (LONG_ROUNDS + DISCARDED), 20)
            direct_us, direct_serial_us = self.replayer.direct_times(functions, LONG_ROUNDS, repeats)
            (host,) = self.replayer.direct_times(functions[:1], LONG_ROUNDS, 1, host_us)  # more would fill the GPU's queue
        scale = measurement.serial_us / replayed_us
        return replace(
            measurement, compiled_us=streamed_us * scale, inductor_us=inductor_us * scale,
            direct_us=direct_us, direct_serial_us=direct_serial_us, direct_host_us=host,
        )  # fmt: skip

    def captures(self, serial: Lowered, plan: Plan | None) -> list[Callable[[], CudaGraph]]:
        """Return what captures Inductor's serial code, and if there is a plan what captures the kernels as it places them."""
        code = partial(self.replayer.capture_call, self._caller(serial.source, serial))
        return [code, *([partial(self.replayer.capture_plan, plan)] if plan else [])]

    def direct_call(self, serial: Lowered) -> Callable[[], Any]:
        """Return what puts the inputs back and launches Inductor's serial code from the host."""
        return partial(self.replayer.run, self._caller(serial.source, serial))

    def outputs(self, serial: Lowered) -> list[Any]:
        """Return what Inductor's serial code returns on the inputs that all is measured on, and which of them it changes."""
        names, changed = serial.graph.graph_input_names, set(serial.graph.mutated_inputs)
        with torch.no_grad():
            returned = leaves(self.direct_call(serial)())
            return clones([*returned, *(own for name, own in zip(names, self._arguments, strict=True) if name in changed)])

    def _caller(self, source: str, serial: Lowered) -> Callable[[], Any]:
        """Return what calls a wrapper for the graph that `serial` is lowered from."""
        call = load_call(source, serial.graph.constants)
        return lambda: call(list(self._arguments))

    def _screen(self, plans: Sequence[Plan]) -> int:
        repeats = self._repeats(SCREENED * (SCREENING_ROUNDS + DISCARDED), 4)
        times = medians_in_turns([self.replayer.capture_plan(plan) for plan in plans], SCREENING_ROUNDS, repeats)
        return times.index(min(times))

    def _measure(self, plan: Plan) -> float:
        graphs = [self._serial, self.replayer.capture_plan(plan)]
        before, after = medians_in_turns(graphs, ROUNDS, self._repeats(2 * (ROUNDS + DISCARDED), 8))
        us = after * self._serial_us / before
        log.debug("%s: a plan predicted at %.1f us took %.1f us", plan.name, plan.streamed_us, us)
        return us

    def _repeats(self, replays: int, most: int) -> int:
        return repeats_within(SEARCH_SECONDS / 4 / max(1, self._options.search), self._serial_us, replays, most)

    def _top_candidates(self, space: SearchSpace, found: Sequence[MeasuredCandidate]) -> list[Plan]:
        """Return the fastest plans, and a few of them with the other priority, or with one and another caller's stream."""
        plans = [each.plan for each in sorted(found, key=lambda each: each.measured_us)][:TOP_CANDIDATES]
        if self._options.priority is not None:
            return plans
        several = [plan for plan in plans[:PRIORITIZED] if plan.streams > 1]
        others = [other for plan in several for other in exchanged(space, plan)]
        toggled = [replace(plan, priority=0 if plan.priority else HIGH_PRIORITY) for plan in several]
        return [*plans, *toggled, *(replace(plan, priority=HIGH_PRIORITY) for plan in others)]


def load_call(source: str, constants: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    """Return the function of a wrapper, compiled and loaded. It takes the list of the graph's inputs and empties it."""
    module = ModuleType("graphstreams_wrapper")
    exec(compile(source, "<wrapper>", "exec"), module.__dict__)
    vars(module).update(constants)
    return module.call  # type: ignore[no-any-return]
