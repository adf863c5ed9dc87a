"""Tell what is wrong with a wrapper that ran: races are pairs of accesses between which no path leads.

Memory that a storage gave back may be that of any later storage of the same pool. So an access of the later one needs a path
from each access of the earlier one, unless both only read. The wrapper is called twice, on the same streams and with the same
events: what the first call leaves open meets the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.support.text_mutants.trace import (
    CALLER,
    FIRST_COLLECTIVE,
    Allocate,
    Collective,
    Enter,
    Free,
    HostAccess,
    Launch,
    Leave,
    Record,
    Step,
    Synchronize,
    Wait,
)

SHARED, REUSED, UNFORKED, UNJOINED, UNRECORDED, FOREIGN_OUTPUT, NOT_LEFT, ORDER = (
    "two accesses that nothing orders",
    "memory used again that may still be in use",
    "a stream is used before it waits for the caller's",
    "a stream is not waited for at the end",
    "a wait for an event that this call has not recorded",
    "an output in an aux stream's memory",
    "another stream than the caller's is current at the end",
    "another order of collectives than a rank with the other body has, or on an aux stream",
)


@dataclass
class _Memory:
    """A storage, as sets of the nodes that have used it: bit i is node i."""

    stream: int
    accesses: int = 0
    writes: int = 0
    # Accesses of what its memory may have been before.
    old_accesses: int = 0
    old_writes: int = 0


@dataclass
class _Pool:
    """What was given back to a stream's pool, as sets of nodes."""

    accesses: int = 0
    writes: int = 0


@dataclass
class Oracle:
    """The graph of what was enqueued, node by node: each knows the set of nodes from which a path leads to it."""

    faults: dict[str, str] = field(default_factory=dict)  # a kind, and the first of that kind
    _before: list[int] = field(default_factory=list)
    _last: dict[int, int] = field(default_factory=dict)  # by stream
    _host: int = 0  # what the host has waited for, as a set
    _events: dict[int | None, int] = field(default_factory=dict)
    _recorded: set[int] = field(default_factory=set)  # in this call
    _memory: dict[int, _Memory] = field(default_factory=dict)
    _pools: dict[int, _Pool] = field(default_factory=dict)
    _places: dict[tuple[int, int], int] = field(default_factory=dict)  # that a node uses of a storage, if not all
    _start: int = -1
    _launches: int = 0  # of aux streams in this call, as a set
    _collectives: int = 0  # of process groups in this call, as a set

    def take(self, steps: Iterable[Step]) -> None:
        """Look at the steps of a run, in the order of the host."""
        for step in steps:
            self._TAKE[type(step)](self, step)

    def _node(self, stream: int | None, *sources: int) -> int:
        """Return a new node behind the last of its stream, what the host waited for, and the sources. None: of the host."""
        before = self._host
        for source in (*sources, *([self._last[stream]] if stream in self._last else [])):
            before |= self._before[source] | 1 << source
        self._before.append(before)
        node = len(self._before) - 1
        if stream is not None:
            self._last[stream] = node
        return node

    def _is_forked(self, stream: int) -> bool:
        last = self._last.get(stream)
        reached = self._host if last is None else self._before[last] | 1 << last | self._host
        return stream == CALLER or bool(reached >> self._start & 1)

    def _launch(self, step: Launch) -> None:
        if not self._is_forked(step.stream):
            self._fault(UNFORKED, step.name)
        node = self._node(step.stream)
        if step.stream >= FIRST_COLLECTIVE:
            self._collectives |= 1 << node
        else:
            self._launches |= 1 << node
        self._places.update({(node, storage): places for storage, places in step.places})
        self._use(node, step.reads, step.writes, step.name)

    def _host_access(self, step: HostAccess) -> None:
        node = self._node(None)
        self._host |= 1 << node
        self._use(node, step.reads, step.writes, "the host")

    def _use(self, node: int, reads: Sequence[int], writes: Sequence[int], name: str) -> None:
        unordered = ~self._before[node]
        for storage in writes:
            memory = self._of(storage)
            self._check(self._sharing(node, storage, memory.accesses & unordered), SHARED, name, storage)
            self._check(memory.old_accesses & unordered, REUSED, name, storage)
        for storage in reads:
            memory = self._of(storage)
            self._check(memory.writes & unordered, SHARED, name, storage)
            self._check(memory.old_writes & unordered, REUSED, name, storage)
        for storage in (*reads, *writes):
            self._memory[storage].accesses |= 1 << node
        for storage in writes:
            self._memory[storage].writes |= 1 << node

    def _sharing(self, node: int, storage: int, others: int) -> int:
        """Return those of a set of nodes that use a place of the storage which the node writes too."""
        own = self._places.get((node, storage))
        for other in range(others.bit_length() if own is not None else 0):
            places = self._places.get((other, storage))
            if others >> other & 1 and places is not None and not places & own:  # type: ignore[operator]
                others &= ~(1 << other)
        return others

    def _of(self, storage: int) -> _Memory:
        """Return the memory of a storage. The host's comes from no pool of the device."""
        return self._memory.setdefault(storage, _Memory(CALLER))

    def _check(self, nodes: int, kind: str, name: str, storage: int) -> None:
        if nodes:
            self._fault(kind, f"{name} with storage {storage}")

    def _fault(self, kind: str, text: str) -> None:
        self.faults.setdefault(kind, text)

    def _record(self, step: Record) -> None:
        self._events[step.event] = self._node(step.stream)
        self._recorded.add(step.event)

    def _wait(self, step: Wait) -> None:
        if step.event not in self._recorded:
            # In a CUDA graph's capture that is an error.
            self._fault(UNRECORDED, f"event {step.event}")
        self._node(step.stream, *([self._events[step.event]] if step.event in self._events else []))

    def _synchronize(self, step: Synchronize) -> None:
        node = self._last.get(step.stream) if step.stream is not None else self._events.get(step.event)
        if node is not None:
            self._host |= self._before[node] | 1 << node

    def _allocate(self, step: Allocate) -> None:
        if self._start >= 0 and not self._is_forked(step.stream):
            # In a CUDA graph's capture the memory would not be that graph's.
            self._fault(UNFORKED, f"storage {step.storage}")
        pool = self._pools.setdefault(step.stream, _Pool())
        self._memory[step.storage] = _Memory(step.stream, old_accesses=pool.accesses, old_writes=pool.writes)

    def _free(self, step: Free) -> None:
        memory = self._memory[step.storage]
        pool = self._pools[memory.stream]
        pool.accesses |= memory.accesses
        pool.writes |= memory.writes

    def _enter(self, step: Enter) -> None:
        self._start = self._node(CALLER)
        self._recorded, self._launches, self._collectives = set(), 0, 0

    def _leave(self, step: Leave) -> None:
        node = self._node(CALLER)
        # An error leaves the collectives that run to their groups, which hold their memory, as in Inductor's own code.
        launches = self._launches if step.interrupted else self._launches | self._collectives
        if launches & ~self._before[node]:
            self._fault(UNJOINED, "")
        if step.current != CALLER:
            self._fault(NOT_LEFT, f"stream {step.current}")
        for storage in step.outputs:
            # Who drops it in the middle of a later call gives it to that stream, which then has been forked already.
            if storage in self._memory and self._memory[storage].stream != CALLER:
                self._fault(FOREIGN_OUTPUT, f"storage {storage}")

    def _collective(self, step: Collective) -> None:
        pass  # its launch is a step of its own

    _TAKE: ClassVar[dict[type, Any]] = {
        Launch: _launch, HostAccess: _host_access, Record: _record, Wait: _wait, Synchronize: _synchronize,
        Allocate: _allocate, Free: _free, Enter: _enter, Leave: _leave, Collective: _collective,
    }  # fmt: skip


def other_order(one: Iterable[Step], other: Iterable[Step]) -> dict[str, str]:
    """Return what tells the collectives of one body from another's, on which two ranks may wait for each other for ever.

    Those of the first have to be on the caller's stream.
    """
    first, second = ([step for step in steps if isinstance(step, Collective)] for steps in (one, other))
    for step in first:
        if step.stream != CALLER:
            return {ORDER: f"{step.name} on stream {step.stream}"}
    same = len(first) == len(second) and all(_same(*pair) for pair in zip(first, second, strict=True))
    return {} if same else {ORDER: " ".join(step.name for step in first)}


def _same(one: Collective, other: Collective) -> bool:
    known = zip(one.sizes, other.sizes, strict=False)
    sizes = len(one.sizes) == len(other.sizes) and all(None in pair or len(set(pair)) == 1 for pair in known)
    return (one.name, one.arguments) == (other.name, other.arguments) and sizes


def faults(steps: Iterable[Step]) -> dict[str, str]:
    """Return what is wrong with a run, by kind; nothing if it is empty."""
    oracle = Oracle()
    oracle.take(steps)
    return oracle.faults
