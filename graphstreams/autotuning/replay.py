"""Replays the compiled kernels of a serial graph in other orders: puts them on streams, in a CUDA graph, as a plan says.

A plan costs a capture and a few replays, which take milliseconds; to compile it would take seconds. What a kernel reads stays
what the first serial run left there, so a plan that orders too little would still touch only memory that is held here.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph
from graphstreams.autotuning.occupancy import Occupancy, blocks_of_graph
from graphstreams.autotuning.recorded_launches import RecordedLaunch
from graphstreams.autotuning.timing import device_us, intervals_in_replays, medians_in_turns, times_in_turns
from graphstreams.errors import Unmeasurable
from graphstreams.ir.plan import Plan
from graphstreams.runtime.streams import acquire, capture_stream

SHORTEST_US = 0.5  # the least that a kernel takes
RESTORED = 20  # times that inputs are put back to find what it takes


class KernelReplayer:
    """The kernels of one serial graph, to be captured and timed in any order on the current device."""

    def __init__(self, launches: Sequence[Sequence[RecordedLaunch]], restore: Callable[[], Any] | None = None) -> None:
        """`launches[k]` are the launches of kernel k, in order.

        `restore` puts back the inputs that the kernels update from their own value. It runs before the kernels whenever they
        are repeated; what it takes is measured, and left out of the times of CUDA graphs. Raises Unmeasurable if it takes
        longer than the kernels, because what is left then is mostly noise.
        """
        self._launches, self._restore = launches, restore or (lambda: None)
        self._stream = capture_stream(torch.cuda.current_device())
        self._warm: set[int] = set()
        # One pool for all captures, because each pool would keep a workspace of cuBLAS for every stream.
        self._pool = torch.cuda.graph_pool_handle()
        # A pool must not be used again once its last graph is gone, so one graph stays.
        anything = torch.zeros(1, device="cuda")
        self._last = CudaGraph(anything.zero_, self._stream, self._pool)
        self._restore_us = 0.0
        if restore:
            self._restore_us = self._time_of_restoring()

    def part(self, kernels: Sequence[int]) -> KernelReplayer | None:
        """Return what replays some of the kernels, numbered from 0; None if inputs are put back, which belong to no part."""
        if self._restore_us:
            return None
        found = copy.copy(self)
        found._launches, found._warm = [self._launches[kernel] for kernel in kernels], set()
        return found

    def with_launches(self, launches: Mapping[int, RecordedLaunch]) -> KernelReplayer:
        """Return what launches something else for some kernels, one launch for each."""
        found = copy.copy(self)
        found._launches = [[launches[kernel]] if kernel in launches else own for kernel, own in enumerate(self._launches)]
        found._warm = set()
        return found

    def capture_serial(self, order: Sequence[int]) -> CudaGraph:
        """Capture the kernels `order` on one stream."""

        def enqueue() -> None:
            for kernel in order:
                self._launch(kernel)

        return self._capture(enqueue)

    def capture_plan(self, plan: Plan) -> CudaGraph:
        """Capture the kernels as `plan` places them."""
        taken = acquire(self._stream, plan.streams - 1, len(plan.events), plan.priority)
        streams, events = (self._stream, *taken[: plan.streams - 1]), taken[plan.streams - 1 :]
        self._warm_up(streams[1:])

        def enqueue() -> None:
            for step, number, at in plan.steps():
                if step == "record":
                    events[number].record(streams[at])
                elif step == "wait":
                    streams[at].wait_event(events[number])
                else:
                    with torch.cuda.stream(streams[at]):
                        self._launch(number)

        return self._capture(enqueue)

    def capture_call(self, function: Callable[[], Any]) -> CudaGraph:
        """Capture what any function enqueues on the current stream, after two calls of it."""
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                self._restore()
                function()
        return self._capture(function)

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns that is called once on the inputs as they were."""
        self._restore()
        return function()

    def kernel_times(self, order: Sequence[int], replays: int = 25) -> dict[int, float]:
        """Return the time of each kernel in us inside the serial graph `order`, with its share of the gaps between kernels.

        An event is recorded behind every kernel, inside the graph. What an event costs is the same for all, and is subtracted
        so that the sum is the time of the graph without events.
        """
        events = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(len(order) + 1)]

        def enqueue() -> None:
            events[0].record(self._stream)
            for kernel, event in zip(order, events[1:], strict=True):
                self._launch(kernel)
                event.record(self._stream)

        serial = self.capture_serial(order)
        measured = intervals_in_replays(self._capture(enqueue), events, replays)
        event_us = (sum(measured) - medians_in_turns([serial])[0]) / len(order)
        return {kernel: max(us - event_us, SHORTEST_US) for kernel, us in zip(order, measured, strict=True)}

    def direct_times(
        self, functions: Sequence[Callable[[], Any]], rounds: int, repeats: int,
        us_of: Callable[[Callable[[], Any], int], float] = device_us,
    ) -> list[float]:  # fmt: skip
        """Return the median time in us of one call of each function if the host launches its kernels, by the clock `us_of`.

        What it takes to put inputs back is part of it, the same for each function.
        """
        calls = [partial(self._restored, function) for function in functions]
        with torch.cuda.stream(self._stream):
            return [statistics.median(own) for own in times_in_turns(calls, rounds, repeats, us_of)]

    def blocks(self, kernel: int) -> list[Occupancy]:
        """Return the thread blocks of each launch of a kernel; empty if the driver does not tell."""
        try:
            self._warm_up([self._stream])
            return blocks_of_graph(CudaGraph(lambda: self._launch(kernel), self._stream, self._pool, keep_graph=True).graph)
        except (RuntimeError, OSError, AttributeError):
            return []

    def _launch(self, kernel: int) -> None:
        for launch in self._launches[kernel]:
            launch()

    def _warm_up(self, streams: Sequence[torch.cuda.Stream]) -> None:
        """Run every kernel once on each stream, so that no capture has what libraries allocate for a stream at first use."""
        for stream in streams:
            if stream.cuda_stream not in self._warm:
                self._warm.add(stream.cuda_stream)
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    self._restore()
                    for kernel in range(len(self._launches)):
                        self._launch(kernel)
                torch.cuda.current_stream().wait_stream(stream)

    def _restored(self, enqueue: Callable[[], Any]) -> None:
        self._restore()
        enqueue()

    def _capture(self, enqueue: Callable[[], Any]) -> CudaGraph:
        self._warm_up([self._stream])
        graph = CudaGraph(partial(self._restored, enqueue), self._stream, self._pool)
        graph.overhead_us = self._restore_us
        return graph

    def _time_of_restoring(self) -> float:
        """Return the us that putting the inputs back adds to a graph: what more of it adds, without the launch of the graph."""

        def repeated() -> None:
            for _ in range(1 + RESTORED):
                self._restore()

        self._warm_up([self._stream])
        graphs = [CudaGraph(function, self._stream, self._pool) for function in (self._restore, repeated)]
        once, often, whole = medians_in_turns([*graphs, self.capture_serial(range(len(self._launches)))])
        us = max(0.0, (often - once) / RESTORED)
        if us > whole - us:
            text = f"to put back the inputs that it updates from their own value takes {us:.1f} us"
            raise Unmeasurable(f"{text}, more than its kernels")
        return us
