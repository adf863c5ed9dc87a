"""Times and plans of one graph that are measured on the GPU at hand, and kept for the next compile."""

from __future__ import annotations

import gc
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.cache_keys import plan_key, setting
from graphstreams.autotuning.cuda_graph import CudaGraph
from graphstreams.autotuning.measured_search import SCREENED, MeasuredCandidate, search_by_measuring
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.serial_code import CompiledSerialGraph, load_call
from graphstreams.autotuning.timing import CAPTURES, DISCARDED, means_over_captures, medians_in_turns
from graphstreams.autotuning.worker_client import Elsewhere
from graphstreams.inductor.disk_cache import Store, cache_folder
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import Device
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.planning.local_search import exchanged
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.synchronization import check_plan

log = logging.getLogger("graphstreams")

# kernels in all the plans that one search measures, brief tries and finals apart: larger graphs have fewer plans measured
MEASURED_KERNELS = 20_000
FEWEST_PLANS = 4
# kernels of a graph and plans to measure, up to which plans are tried briefly: capturing several times as many takes its time,
# and with 64 plans the tries found nothing more (docs/measurements.md)
TRIED_KERNELS, TRIED_PLANS = 125, 32
SEARCH_SECONDS = 4.0  # half for the plans, a quarter each for the finals and for the check of the code
# of each graph that is measured in turns with others: where four are compared, where one is searched, where it is captured once
BRIEF_TURNS, TURNS, LONG_TURNS = 3, 5, 11
FINALISTS = 6  # plans that are measured again, longer, before one is chosen
PRIORITISED = 4  # of them are measured with priorities too
TIE_RATIO = 1.002  # times the fastest, within which the plan with the fewest records and waits is taken
HIGH_PRIORITY = -2  # the CUDA priority that is tried for the aux streams


class Autotuner:
    """Measures one graph. Nothing is compiled or run before something is asked for that is not on disk."""

    def __init__(self, reading: Reading, device: Device, options: Options, values: Mapping[int, Any]) -> None:
        """`values` are real inputs of the graph by position. Without one of them the graph is not measured."""
        self._reading, self._options, self._values = reading, options, values
        self._store = Store(cache_folder(), setting(device))
        self._code: CompiledSerialGraph | None = None
        self._elsewhere: Elsewhere | None = None
        self._keys: list[str] | None = None
        self._player: KernelReplayer | None = None
        self._arguments: list[Any] = []
        self._serial: CudaGraph | None = None
        self._key = plan_key(reading, options)

    def kept(self) -> tuple[list[float], Plan, Measurement] | None:
        """Times, plan and measurement of an earlier compile of the same graph under the same options."""
        found = self._store.get(f"plan {self._key}")
        try:
            plan = Plan.loads(found["plan"])  # type: ignore[index]
            check_plan(self._reading.kernels, plan)
            fields = {**found["measurement"], "from_disk": True}  # type: ignore[index]
            measurement = Measurement(**{**fields, "plans": tuple(map(tuple, fields["plans"]))})
            return [float(us) for us in found["us"]], replace(plan, name=self._reading.kernels.name), measurement  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return None

    def keep(self, us: Sequence[float], plan: Plan, measurement: Measurement) -> None:
        """Write down what `kept` returns in a later compile."""
        self._store.put(f"plan {self._key}", {"us": list(us), "plan": plan.dumps(), "measurement": asdict(measurement)})

    def times(self) -> list[float]:
        """The time of each kernel in us in its place in the serial graph. Kernels known from other graphs are not run."""
        keys = self._kernel_keys()
        found = [self._store.get(f"kernel {key}") if key else 0.0 for key in keys]
        if any(not isinstance(us, float) for us in found):
            measured = self._playing().kernel_times(self._reading.kernel_order)
            for kernel, us in measured.items():
                if not isinstance(found[kernel], float):
                    found[kernel] = us
                    self._store.put(f"kernel {keys[kernel]}", us)
        return [float(us) for us in found]  # type: ignore[arg-type]

    def blocks(self) -> dict[int, list[tuple[int, int]]]:
        """Of each launch of each kernel: its thread blocks, and how many of them the GPU holds at once; as far as known."""
        found: dict[int, list[tuple[int, int]]] = {}
        for kernel, key in enumerate(self._kernel_keys()):
            kept = self._store.get(f"blocks {key}") if key else []
            if not isinstance(kept, list):
                kept = [(blocks.count, blocks.at_once) for blocks in self._playing().blocks(kernel)]
                self._store.put(f"blocks {key}", kept)
            found[kernel] = [(int(count), int(at_once)) for count, at_once in kept]
        return found

    def search(self, space: SearchSpace, first: Sequence[Plan] = ()) -> tuple[Plan, Measurement]:
        """The best of the plans that were measured against the serial graph in turns, those of `first` among them.

        Ends after about SEARCH_SECONDS; of a graph that takes long fewer plans are measured.
        """
        player, serial = self._playing(), self._serial_graph()
        whole = self._serial_us()
        ends = time.monotonic() + SEARCH_SECONDS / 2
        seconds = SEARCH_SECONDS / 4 / max(1, self._options.search)
        repeats = _repeats(whole, 2 * (TURNS + DISCARDED), 8, seconds)
        brief = _repeats(whole, SCREENED * (BRIEF_TURNS + DISCARDED), 4, seconds)

        def fastest(plans: Sequence[Plan]) -> int:
            times = medians_in_turns([player.play(plan) for plan in plans], BRIEF_TURNS, brief)
            return times.index(min(times))

        def measure(plan: Plan) -> float:
            before, after = medians_in_turns([serial, player.play(plan)], TURNS, repeats)
            log.debug("%s: a plan predicted at %.1f us took %.1f us", plan.name, plan.streamed_us, after * whole / before)
            return after * whole / before

        count = min(self._options.search, max(FEWEST_PLANS, MEASURED_KERNELS // max(1, len(space.us))))
        trying = fastest if len(space.us) <= TRIED_KERNELS and count <= TRIED_PLANS else None
        tried = search_by_measuring(space, measure, count, 0, first, lambda: time.monotonic() > ends, trying)
        best, serial_us, played_us = self._finals(self._finalists(space, tried), whole)
        plans = tuple((round(t.plan.streamed_us, 2), round(t.measured_us, 2)) for t in tried)
        return best, Measurement(serial_us, played_us, tried=len(tried), plans=plans)

    def without_search(self, first: Sequence[Plan]) -> tuple[Plan, Measurement]:
        """The faster one of a few plans, each measured once: the simulator is not always right."""
        plans = [replace(plan, priority=self._options.priority or 0) for plan in first]
        best, serial_us, played_us = self._finals(plans, self._serial_us())
        return best, Measurement(serial_us, played_us, tried=len(plans))

    def check(self, source: str, serial: Lowered, measurement: Measurement) -> Measurement:
        """The measurement with the times of the code that was generated for the plan, and of Inductor's serial code.

        `source` is the wrapper with both bodies, of which every call runs the streamed one, `serial` the graph as Inductor has
        lowered it. In CUDA graphs all are timed in turns with the serial graph that was played, which stands for the clock of
        the moment; launched by the host the two are timed in turns with each other.
        """
        constants = serial.graph.constants
        compiled, inductor = (self._caller(load_call(text, constants)) for text in (source, serial.source))
        captured: list[Callable[[], CudaGraph]] = [
            self._played_serially,
            *(partial(self._called, c) for c in (compiled, inductor)),
        ]
        with torch.no_grad():
            played, streamed, serial_us = self._over_captures(captured, measurement.serial_us)
            direct, direct_serial = self._launched_by_the_host([compiled, inductor])
        scale = measurement.serial_us / played
        return replace(
            measurement, compiled_us=streamed * scale, inductor_us=serial_us * scale,
            direct_us=direct, direct_serial_us=direct_serial,
        )  # fmt: skip

    def _caller(self, call: Callable[[list[Any]], Any]) -> Callable[[], Any]:
        self._playing()
        return lambda: call(list(self._arguments))

    def _called(self, call: Callable[[], Any]) -> CudaGraph:
        return self._playing().call(call)

    def _launched_by_the_host(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        """The time of each call in us if the host launches its kernels, from one call to the next."""
        (once, *_) = self._playing().direct_times(calls[:1], 1, 1)
        repeats = _repeats(once, len(calls) * (LONG_TURNS + DISCARDED), 20, SEARCH_SECONDS / 8)
        return self._playing().direct_times(calls, LONG_TURNS, repeats)

    def gain_at(self, plan: Plan, sizes: Mapping[str, int]) -> float:
        """The share of the serial time that `plan` saves at other dynamic sizes, on made-up inputs; kept for the next compile.

        Measured in a process of its own, which an index that is out of range there may end. Raises Unmeasurable.
        """
        digest = hashlib.sha256(repr((plan.placements, plan.events, plan.priority)).encode()).hexdigest()
        key = f"gain {self._key} {digest} {sorted(sizes.items())}"
        share = self._store.get(key)
        if not isinstance(share, float):
            if self._elsewhere is None:
                self._elsewhere = Elsewhere(self._serial_code().job(plan))
            share = self._elsewhere.gain(self._serial_code().layouts(sizes))
            self._store.put(key, share)
        return share

    def close(self) -> None:
        """Give back the memory that measuring took, and end the process that measured other sizes."""
        if self._elsewhere is not None:
            self._elsewhere.close()
            self._elsewhere = None
        if self._player is not None:
            self._player = self._serial = None
            self._arguments = []
            # Of generated code, which refers to itself: collected later, in the middle of a capture of whoever it may be, it
            # would end that capture, for its kernels go with it.
            gc.collect()
            torch.cuda.empty_cache()

    def _finalists(self, space: SearchSpace, tried: Sequence[MeasuredCandidate]) -> list[Plan]:
        """The fastest plans, and what CUDA priorities make of a few: for the aux streams, or for the caller's kernels there."""
        plans = [t.plan for t in sorted(tried, key=lambda t: t.measured_us)][:FINALISTS]
        if self._options.priority is not None:
            return [replace(plan, priority=self._options.priority) for plan in plans]
        several = [plan for plan in plans[:PRIORITISED] if plan.streams > 1]
        others = [other for plan in several for other in exchanged(space, plan)]
        return [*plans, *(replace(plan, priority=HIGH_PRIORITY) for plan in (*several, *others))]

    def _finals(self, plans: Sequence[Plan], whole_us: float) -> tuple[Plan, float, float]:
        """The fastest of a few plans, all measured in turns, with the serial time and its own."""
        # Where a replay takes long, only those that were fastest before.
        plans = plans[: max(1, int(SEARCH_SECONDS / 4 * 1e6 / (whole_us * (LONG_TURNS + DISCARDED))) - 1)]
        play = self._playing().play
        serial, *times = self._over_captures([self._played_serially, *(partial(play, plan) for plan in plans)], whole_us)
        close = [i for i, us in enumerate(times) if us <= TIE_RATIO * min(times)]
        best = min(close, key=lambda i: (plans[i].synchronisations, -plans[i].priority, times[i]))
        return plans[best], serial, times[best]

    def _over_captures(self, captured: Sequence[Callable[[], CudaGraph]], whole_us: float) -> list[float]:
        """The time of each graph in us, over a few captures; fewer, and fewer repeats, where replays or captures take long."""
        seconds = SEARCH_SECONDS / 4
        captures = _repeats(whole_us, len(captured) * (TURNS + DISCARDED), CAPTURES, seconds)
        turns = TURNS if captures > 1 else LONG_TURNS
        repeats = _repeats(whole_us, captures * len(captured) * (turns + DISCARDED), 20, seconds)
        ends = time.monotonic() + seconds
        return means_over_captures(captured, turns, repeats, captures, lambda: time.monotonic() > ends)

    def _serial_code(self) -> CompiledSerialGraph:
        if self._code is None:
            self._code = CompiledSerialGraph(self._reading)
        return self._code

    def _playing(self) -> KernelReplayer:
        if self._player is None:
            code = self._serial_code()
            with unset_fake_temporarily():
                self._arguments = code.arguments(self._values)
                self._player = code.player(self._arguments)
        return self._player

    def _serial_graph(self) -> CudaGraph:
        if self._serial is None:
            self._serial = self._played_serially()
        return self._serial

    def _played_serially(self) -> CudaGraph:
        return self._playing().serial(self._reading.kernel_order)

    def _serial_us(self) -> float:
        once = medians_in_turns([self._serial_graph()], 1, 1)[0]
        return medians_in_turns([self._serial_graph()], 9, _repeats(once, 9 + DISCARDED, 20, SEARCH_SECONDS / 8))[0]

    def _kernel_keys(self) -> list[str]:
        if self._keys is None:
            self._keys = self._serial_code().keys()
        return self._keys


def _repeats(us: float, replays: int, most: int, seconds: float) -> int:
    """How often each of `replays` replays that take `us` us can be repeated in `seconds`, from once to `most` times."""
    return max(1, min(most, int(seconds * 1e6 / (us * replays))))
