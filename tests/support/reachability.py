"""Judge a trace a second time, by definition: accesses are ordered if a path leads from one to the other.

Shares nothing with `find_races` but the names of the kinds of races.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import (
    CALLER,
    AllocateStep,
    FinishStep,
    FreeStep,
    LaunchStep,
    RecordStep,
    StartStep,
    Step,
    Trace,
    WaitStep,
)


def places(elements: Any) -> set[int]:
    """Return where the elements are, one by one."""
    steps = zip(elements.sizes, elements.strides, strict=True)
    ranges = [[i * stride for i in range(size)] for size, stride in steps]
    return {elements.offset + sum(index) for index in itertools.product(*ranges)}


Node = int | str  # the position of a step, or "start" or "end"


def _descendants(edges: dict[Node, list[Node]]) -> dict[Node, set[Node]]:
    """Return what paths lead to from each node. Edges only lead to nodes that come later in `edges`."""
    after: dict[Node, set[Node]] = {}
    for node, following in reversed(edges.items()):
        after[node] = set(following).union(*(after[other] for other in following))
    return after


def _users(steps: Sequence[Step]) -> dict[str, list[int]]:
    """Return the positions of the launches that use each storage."""
    users: dict[str, list[int]] = {}
    for i, step in enumerate(steps):
        if isinstance(step, LaunchStep):
            for storage in {*step.reads, *step.writes}:
                users.setdefault(storage, []).append(i)
    return users


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
        edges: dict[Node, list[Node]] = {node: [] for node in ["start", *range(len(self.steps)), "end"]}
        last: dict[int, Node] = {CALLER: "start"}
        records: dict[str, int] = {}
        collectives: dict[int, int] = {}
        self._unrecorded = False
        for i, step in enumerate(self.steps):
            if isinstance(step, FreeStep):
                continue
            if step.stream in last:
                edges[last[step.stream]].append(i)
            if isinstance(step, StartStep):
                collectives[step.collective] = i
                continue
            last[step.stream] = i
            if isinstance(step, FinishStep):
                for number in step.collectives:
                    edges[collectives[number]].append(i)
            if isinstance(step, RecordStep):
                records[step.event] = i
            elif isinstance(step, WaitStep):
                # What an earlier call recorded orders nothing in this one.
                self._unrecorded |= step.event not in records
                for event in {step.event} & records.keys():
                    edges[records[event]].append(i)
        edges[last[CALLER]].append("end")
        self._outputs = trace.outputs
        after = _descendants(edges)
        self._after = {node: after[node] for node in ["start", *self.launches]}
        self._users = _users(self.steps)

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
        # Launches can only conflict if they use the same storage.
        pairs = {pair for users in self._users.values() for pair in itertools.combinations(users, 2)}
        if any(not self.ordered(i, j) and self._conflict(i, j) for i, j in pairs):
            found.add(hb.UNORDERED)
        return found

    def _frees(self) -> Iterator[int]:
        return (i for i, step in enumerate(self.steps) if isinstance(step, FreeStep))

    def _conflict(self, i: int, j: int) -> bool:
        """Return whether one of two launches writes elements that the other uses."""
        one, two = self.steps[i], self.steps[j]
        assert isinstance(one, LaunchStep)
        assert isinstance(two, LaunchStep)
        clash = set(one.writes) & {*two.reads, *two.writes} | set(two.writes) & set(one.reads)
        return any(_meet(one, two, storage) for storage in clash)

    def _before_allocation(self, position: int) -> bool:
        """Return whether a storage is used by what is not ordered after all that its allocation is ordered after."""
        users = set(self._users.get(self.steps[position].storage, ()))  # type: ignore[attr-defined]
        return any(not users <= after for after in self._after.values() if position in after)

    def _early(self, position: int, at_use: bool) -> bool:
        """Return whether an allocation behind a free may hand out the block while somebody still uses it."""
        storage = self.steps[position].storage  # type: ignore[attr-defined]
        before = [self._after[i] for i in self._users.get(storage, ()) if i < position]
        for i, step in enumerate(self.steps):
            if i > position and isinstance(step, AllocateStep) and step.stream == self._pool[storage]:
                places = set(self._users.get(step.storage, ())) if at_use else {i}
                if any(not places <= after for after in before):
                    return True
        return False
