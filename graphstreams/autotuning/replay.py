"""Plays plans: the kernels of a serial graph, already compiled, put on streams and timed as a CUDA graph.

A plan costs a capture and a few replays, milliseconds, where compiling it costs seconds. What a kernel reads stays what
the first serial run left there, so a plan that orders too little would still touch only memory that is held here.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import CudaGraph, no_collection
from graphstreams.autotuning.occupancy import Blocks, blocks_of_graph
from graphstreams.autotuning.recorded_launches import Launch
from graphstreams.autotuning.timing import medians_in_turns, times_in_turns
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.runtime.streams import acquire, capture_stream

SHORTEST_US = 0.5  # what a kernel costs at least


class KernelReplayer:
    """Captures and times orders of the kernels of one serial graph on the current device."""

    def __init__(self, launches: Sequence[Sequence[Launch]]) -> None:
        """`launches[k]` are the launches of kernel k, in order."""
        self._launches = launches
        self._stream = capture_stream(torch.cuda.current_device())
        self._warm: set[int] = set()
        # One pool for all captures: else each would keep a workspace of cuBLAS for every stream.
        self._pool = torch.cuda.graph_pool_handle()
        # A pool must not be used again once its last graph is gone, so that one graph stays.
        anything = torch.zeros(1, device="cuda")
        self._last = self._captured(anything.zero_)

    def serial(self, order: Sequence[int]) -> CudaGraph:
        """The kernels `order` on one stream."""

        def enqueue() -> None:
            for kernel in order:
                self._launch(kernel)

        return self._captured(enqueue)

    def kernel_times(self, order: Sequence[int], replays: int = 25) -> dict[int, float]:
        """The time of each kernel in us inside the serial graph `order`, its share of the gaps between kernels included.

        An event is recorded behind every kernel, inside the graph. What the events themselves cost is the same for all, and
        is taken off so that the sum is the time of the graph without them.
        """
        marks = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(len(order) + 1)]

        def enqueue() -> None:
            marks[0].record(self._stream)
            for kernel, mark in zip(order, marks[1:], strict=True):
                self._launch(kernel)
                mark.record(self._stream)

        marked, serial = self._captured(enqueue), self.serial(order)
        samples: list[list[float]] = [[] for _ in order]
        for replay in range(replays + 3):
            marked.replay()
            torch.cuda.synchronize()
            if replay >= 3:
                for own, earlier, later in zip(samples, marks, marks[1:], strict=False):
                    own.append(earlier.elapsed_time(later) * 1000)
        raw = [statistics.median(own) for own in samples]
        (whole,) = medians_in_turns([serial])
        event = (sum(raw) - whole) / len(order)
        return {kernel: max(us - event, SHORTEST_US) for kernel, us in zip(order, raw, strict=True)}

    def play(self, plan: Plan) -> CudaGraph:
        """The kernels as `plan` places them."""
        taken = acquire(self._stream, plan.streams - 1, len(plan.events), plan.priority)
        streams, events = (self._stream, *taken[: plan.streams - 1]), taken[plan.streams - 1 :]
        self._warm_up(streams[1:])
        behind = {event.after: event.id for event in plan.events}
        before: dict[int, list[int]] = {}
        for event in plan.events:
            for wait in event.waits:
                before.setdefault(wait.kernel, []).append(event.id)

        def enqueue() -> None:
            if FORK in behind:
                events[behind[FORK]].record(self._stream)
            for placement in plan.placements:
                stream = streams[placement.stream]
                for event in before.get(placement.kernel, ()):
                    stream.wait_event(events[event])
                with torch.cuda.stream(stream):
                    self._launch(placement.kernel)
                if placement.kernel in behind:
                    events[behind[placement.kernel]].record(stream)
            for event in before.get(JOIN, ()):
                self._stream.wait_event(events[event])

        return self._captured(enqueue)

    def call(self, function: Callable[[], Any]) -> CudaGraph:
        """What any function enqueues on the current stream, captured after two calls of it."""
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                function()
        return self._captured(function)

    def direct_times(self, functions: Sequence[Callable[[], Any]], rounds: int, repeats: int) -> list[float]:
        """The median time in us of one call of each function if the host launches its kernels, measured in turns."""
        with torch.cuda.stream(self._stream):
            return [statistics.median(own) for own in times_in_turns(functions, rounds, repeats)]

    def blocks(self, kernel: int) -> list[Blocks]:
        """The thread blocks of each launch of a kernel. Empty where the driver does not tell."""
        try:
            return blocks_of_graph(self._captured(lambda: self._launch(kernel), keep_graph=True).captured)
        except (RuntimeError, OSError, AttributeError):
            return []

    def _launch(self, kernel: int) -> None:
        for launch in self._launches[kernel]:
            launch()

    def _warm_up(self, streams: Sequence[torch.cuda.Stream]) -> None:
        """What a library allocates for each stream, such as the workspace of cuBLAS, must not be part of a capture."""
        for stream in streams:
            if stream.cuda_stream not in self._warm:
                self._warm.add(stream.cuda_stream)
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for kernel in range(len(self._launches)):
                        self._launch(kernel)
                torch.cuda.current_stream().wait_stream(stream)

    def _captured(self, enqueue: Callable[[], Any], keep_graph: bool = False) -> CudaGraph:
        self._warm_up([self._stream])
        torch.cuda.synchronize()
        graph = CudaGraph(enqueue, keep_graph)
        with torch.cuda.stream(self._stream), no_collection():
            # Other threads of Inductor's compilation may use the device meanwhile.
            graph.captured.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                enqueue()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which the interrupted capture raises again
                    graph.captured.capture_end()
                raise
            graph.captured.capture_end()
        return graph
