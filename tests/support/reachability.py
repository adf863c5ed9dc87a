"""Judge a trace a second time, by definition: accesses are ordered if a path leads from one to the other.

Shares nothing with `find_races` but the names of the kinds of races.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import networkx as nx

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import (
    CALLER,
    AllocateStep,
    FinishStep,
    FreeStep,
    LaunchStep,
    RecordStep,
    StartStep,
    Trace,
    WaitStep,
)


def places(elements: Any) -> set[int]:
    """Return where the elements are, one by one."""
    steps = zip(elements.sizes, elements.strides, strict=True)
    ranges = [[i * stride for i in range(size)] for size, stride in steps]
    return {elements.offset + sum(index) for index in itertools.product(*ranges)}


def _meet(one: LaunchStep, two: LaunchStep, storage: str) -> bool:
    first, second = (dict(step.parts).get(storage) for step in (one, two))
    return first is None or second is None or bool(places(first) & places(second))


class Reachability:
    """Program order per stream, and from each record to the waits that it serves; a free takes no place on a stream.

    A collective comes after what its stream has before its start, and before what waits for it; its stream goes on without it.

    For traces without host synchronisation, and in which no storage is used before its allocation or after its free.
    """

    def __init__(self, trace: Trace) -> None:
        self.steps = trace.steps
        self.launches = [i for i, s in enumerate(self.steps) if isinstance(s, LaunchStep)]
        self._pool = dict.fromkeys(trace.inputs, CALLER) | {
            s.storage: s.stream for s in self.steps if isinstance(s, AllocateStep)
        }
        graph = nx.DiGraph()
        graph.add_nodes_from([*range(len(self.steps)), "start", "end"])
        last: dict[int, object] = {CALLER: "start"}
        records: dict[str, int] = {}
        collectives: dict[int, int] = {}
        self._unrecorded = False
        for i, step in enumerate(self.steps):
            if isinstance(step, FreeStep):
                continue
            if step.stream in last:
                graph.add_edge(last[step.stream], i)
            if isinstance(step, StartStep):
                collectives[step.collective] = i
                continue
            last[step.stream] = i
            if isinstance(step, FinishStep):
                graph.add_edges_from((collectives[number], i) for number in step.collectives)
            if isinstance(step, RecordStep):
                records[step.event] = i
            elif isinstance(step, WaitStep):
                # What an earlier call recorded orders nothing in this one.
                self._unrecorded |= step.event not in records
                graph.add_edges_from((records[event], i) for event in {step.event} & records.keys())
        graph.add_edge(last[CALLER], "end")
        self._outputs = trace.outputs
        self._after = {node: nx.descendants(graph, node) for node in ["start", *self.launches]}

    def ordered(self, first: int, second: int) -> bool:
        """Return whether the launch at one position ends before the step at another begins, in every run."""
        return second in self._after[first]

    def kinds(self) -> set[str]:
        """Return the kinds of races if an allocation uses its block at once, and gets one that its stream has used before."""
        found = self._of_the_call() | ({hb.UNRECORDED} if self._unrecorded else set())
        if any(self._early(i, at_use=False) for i in self._frees()):
            found.add(hb.FREED_EARLY)
        if any(self._before_allocation(i) for i, step in enumerate(self.steps) if isinstance(step, AllocateStep)):
            found.add(hb.UNORDERED)
        return found

    def lost(self) -> set[str]:
        """Return the kinds of races by which data can change: of blocks freed in this call, only from their next use on."""
        found = self._of_the_call()
        if any(self._early(i, at_use=True) for i in self._frees()):
            found.add(hb.FREED_EARLY)
        return found

    def _of_the_call(self) -> set[str]:
        found = set()
        # While a CUDA graph is captured, a block of a stream that has not been forked is not that graph's.
        placed = [i for i, step in enumerate(self.steps) if isinstance(step, LaunchStep | AllocateStep)]
        if any(i not in self._after["start"] for i in placed):
            found.add(hb.UNFORKED)
        # Whoever drops an output gives its block to the stream that it came from, in the middle of whatever runs then.
        if any(self._pool[output] != CALLER for output in self._outputs):
            found.add(hb.OUTPUT_ON_AUX)
        if any("end" not in self._after[i] for i in self.launches):
            found.add(hb.UNJOINED)
        if any(self._conflict(i, j) for i in self.launches for j in self.launches if i < j):
            found.add(hb.UNORDERED)
        return found

    def _frees(self) -> Iterator[int]:
        return (i for i, step in enumerate(self.steps) if isinstance(step, FreeStep))

    def _conflict(self, i: int, j: int) -> bool:
        one, two = self.steps[i], self.steps[j]
        assert isinstance(one, LaunchStep)
        assert isinstance(two, LaunchStep)
        clash = set(one.writes) & {*two.reads, *two.writes} | set(two.writes) & set(one.reads)
        return any(_meet(one, two, storage) for storage in clash) and not self.ordered(i, j)

    def _users(self, storage: str) -> list[int]:
        return [i for i in self.launches if storage in (*self.steps[i].reads, *self.steps[i].writes)]  # type: ignore[attr-defined]

    def _before_allocation(self, position: int) -> bool:
        """Return whether a storage is used by what is not ordered after all that its allocation is ordered after."""
        before = [after for after in self._after.values() if position in after]
        users = self._users(self.steps[position].storage)  # type: ignore[attr-defined]
        return any(user not in after for user in users for after in before)

    def _early(self, position: int, at_use: bool) -> bool:
        """Return whether an allocation behind a free may hand out the block while somebody still uses it."""
        storage = self.steps[position].storage  # type: ignore[attr-defined]
        before = [i for i in self._users(storage) if i < position]
        for i, step in enumerate(self.steps):
            if i > position and isinstance(step, AllocateStep) and step.stream == self._pool[storage]:
                places = self._users(step.storage) if at_use else [i]
                if any(place not in self._after[user] for place in places for user in before):
                    return True
        return False
