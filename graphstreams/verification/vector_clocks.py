"""Races of a trace, by vector clocks: two accesses to one storage, one of them a write, that nothing orders.

"Happens before" is Lamport's ("Time, Clocks, and the Ordering of Events in a Distributed System", CACM 1978); vector
clocks are Fidge's and Mattern's (1988); keeping only the last write and the last read of each stream, as epochs, is
FastTrack's (Flanagan and Freund, PLDI 2009). Linear in steps times streams.

Memory follows CUDA's caching allocator. A free hands the block, at the time the host runs it, to the pool of the stream
that allocated it, and the next allocation on that stream may get it. So each later allocation there must be ordered
after every access to the block that the stream had not waited for by then. An allocation is taken to use its block at
once, which is strict where a wait stands between an allocation and its first use. The next trace may get what this one
freed on an aux stream: aux streams belong to one caller's stream (`runtime/streams.py`), all work is joined into that
stream at the end, and the next trace forks from it. An allocation ahead of its stream's fork is refused: while a CUDA
graph is captured, the stream takes part only from the fork on, and the block would not come from that graph's pool.

What is returned outlives the trace, and whoever drops it may do so between two lines of a later call: another thread on
the caller's stream gives it to a reader there and drops it when that call has forked already. A block of an aux stream
would then go to work that nothing orders behind that reader, so outputs have to be in memory of the caller's stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from graphstreams.verification.races import (
    AFTER_FREE,
    FREED_EARLY,
    OUTPUT_ON_AUX,
    UNFORKED,
    UNJOINED,
    UNKNOWN_STORAGE,
    UNORDERED,
    UNRECORDED,
    Access,
    Race,
)
from graphstreams.verification.trace import (
    CALLER,
    HOST,
    Allocate,
    Free,
    Launch,
    Record,
    Step,
    Synchronize,
    Trace,
    Wait,
    stream_name,
)

__all__ = ["Access", "Race", "find_races"]

Clock = dict[int, int]  # per stream, how many of its launches have happened before; a missing stream counts as 0


@dataclass(frozen=True)
class _Epoch:
    """An access and its time: the number of the launch on its own stream."""

    access: Access
    time: int

    def before(self, clock: Clock) -> bool:
        return clock.get(self.access.stream, 0) >= self.time


@dataclass
class _History:
    """Of one storage: its allocation, its last write, and the last read of each stream since."""

    stream: int  # that allocated it
    allocation: Access | None = None
    before: Clock = field(default_factory=dict)  # what its stream had waited for at the allocation
    write: _Epoch | None = None
    reads: dict[int, _Epoch] = field(default_factory=dict)
    raced: list[_Epoch] = field(default_factory=list)  # earlier accesses that a write did not wait for: a free has to
    freed: Access | None = None

    def epochs(self) -> Iterable[_Epoch]:
        return (*self.reads.values(), self.write) if self.write else self.reads.values()


@dataclass(frozen=True)
class _Pending:
    """An access to a freed block that the pool's stream had not waited for at the free."""

    epoch: _Epoch
    free: Access


def find_races(trace: Trace) -> list[Race]:
    """All races of the trace in the order in which they show; an empty list is the proof that there is none.

    Of several accesses that race with one later access, the last write and the last read of each stream are named.
    """
    replay = _Replay(trace)
    for step in trace.steps:
        replay.do(step)
    replay.finish()
    return replay.races


class _Replay:
    """The state of one walk over a trace."""

    def __init__(self, trace: Trace) -> None:
        self.races: list[Race] = []
        self._clocks: dict[int, Clock] = {CALLER: {CALLER: 1}}  # time 1: what the caller enqueued before the graph
        self._host: Clock = {}
        self._clocks[HOST] = self._host
        self._events: dict[str, Clock] = {}
        self._storages = {name: _History(CALLER) for name in trace.inputs}
        self._pools: dict[int, list[_Pending]] = {}
        self._last: dict[int, _Epoch] = {}
        self._unforked: set[tuple[int, str]] = set()  # stream and action that were reported
        self._outputs = trace.outputs
        self._end = max((step.line for step in trace.steps), default=0)

    def _clock(self, stream: int) -> Clock:
        if stream not in self._clocks:
            self._clocks[stream] = dict(self._host)
        return self._clocks[stream]

    def _after_host(self) -> None:
        """What is enqueued from here on comes after all that the host has done and waited for."""
        for clock in self._clocks.values():
            _join(clock, self._host)

    @singledispatchmethod
    def do(self, step: Step) -> None:
        raise TypeError(f"not a step of a trace: {step!r}")

    @do.register
    def _(self, step: Launch) -> None:
        clock = self._clock(step.stream)
        self._check_fork(Access(step.line, step.name, step.stream, "", "runs"), clock, "the inputs may not be ready")
        clock[step.stream] = time = clock.get(step.stream, 0) + 1
        for storage in step.reads:
            self._read(_Epoch(Access(step.line, step.name, step.stream, storage, "read"), time), clock)
        for storage in step.writes:
            self._write(_Epoch(Access(step.line, step.name, step.stream, storage, "write"), time), clock)
        self._last[step.stream] = _Epoch(Access(step.line, step.name, step.stream, "", "runs"), time)
        if step.stream == HOST:
            self._after_host()

    @do.register
    def _(self, step: Record) -> None:
        self._events[step.event] = dict(self._clock(step.stream))

    @do.register
    def _(self, step: Wait) -> None:
        if step.event in self._events:
            _join(self._clock(step.stream), self._events[step.event])
        else:
            self._unrecorded(step, step.event)

    @do.register
    def _(self, step: Synchronize) -> None:
        if step.event is not None and step.event not in self._events:
            self._unrecorded(step, step.event)
            return
        done = list(self._clocks.values()) if step.event is None else [self._events[step.event]]
        for clock in done:
            _join(self._host, clock)
        self._after_host()

    @do.register
    def _(self, step: Allocate) -> None:
        clock = self._clock(step.stream)
        allocation = Access(step.line, "", step.stream, step.storage, "allocate")
        self._check_fork(allocation, clock, "a CUDA graph that captures this would not own the memory")
        # The block may be one that its stream, or one that it has waited for, has only just used. So whoever uses the
        # storage, on whatever stream, comes after all that.
        self._storages[step.storage] = _History(step.stream, allocation, dict(clock))
        for pending in self._pools.pop(step.stream, ()):
            # Ordered now means ordered for every later allocation on this stream too, so nothing is kept.
            if not pending.epoch.before(clock):
                self._report_early_free(pending, allocation)

    @do.register
    def _(self, step: Free) -> None:
        history = self._storages.get(step.storage)
        if history is None or history.freed:
            self._report_dead(Access(step.line, "", step.stream, step.storage, "free"), history)
            return
        free = Access(step.line, "", history.stream, step.storage, "free")
        clock = self._clock(history.stream)
        pending = [_Pending(epoch, free) for epoch in (*history.epochs(), *history.raced) if not epoch.before(clock)]
        if pending and history.stream != HOST:  # whose allocator itself waits for what reads pinned memory
            self._pools.setdefault(history.stream, []).extend(pending)
        if step.certain:
            history.freed = free

    def finish(self) -> None:
        """Everything on an aux stream must have been joined into the caller's stream, and no output be in its memory."""
        clock = self._clocks[CALLER]
        for stream, epoch in self._last.items():
            if not epoch.before(clock):
                end = Access(self._end, "", CALLER, "", "returns")
                missing = f"the caller's stream does not wait for {stream_name(stream)} before the graph returns"
                self.races.append(Race(UNJOINED, epoch.access, end, missing))
        for storage in self._outputs:
            history = self._storages.get(storage)
            if history is not None and history.allocation is not None and history.stream not in (CALLER, HOST):
                end = Access(self._end, "", CALLER, storage, "returns")
                missing = (
                    "the graph returns it, and when the caller drops it that stream may use the memory for something else "
                    "in a later call, while the caller's stream still reads it"
                )
                self.races.append(Race(OUTPUT_ON_AUX, history.allocation, end, missing))

    def _read(self, epoch: _Epoch, clock: Clock) -> None:
        history = self._alive(epoch.access)
        if history is None:
            return
        self._check_allocation(history, epoch.access, clock)
        if history.write is not None and not history.write.before(clock):
            self._report_unordered(history.write.access, epoch.access)
        history.reads[epoch.access.stream] = epoch

    def _write(self, epoch: _Epoch, clock: Clock) -> None:
        history = self._alive(epoch.access)
        if history is None:
            return
        self._check_allocation(history, epoch.access, clock)
        for earlier in history.epochs():
            if not earlier.before(clock):
                self._report_unordered(earlier.access, epoch.access)
                history.raced.append(earlier)
        history.write = epoch
        history.reads = {}

    def _alive(self, access: Access) -> _History | None:
        history = self._storages.get(access.storage)
        if history is None or history.freed:
            self._report_dead(access, history)
            return None
        return history

    def _check_allocation(self, history: _History, access: Access, clock: Clock) -> None:
        late = next((stream for stream, time in history.before.items() if clock.get(stream, 0) < time), None)
        if late is not None and history.allocation is not None:
            self._report_unordered(history.allocation, access, late)
            history.before = {}

    def _check_fork(self, access: Access, clock: Clock, harm: str) -> None:
        seen = (access.stream, access.action)
        if clock.get(CALLER, 0) or access.stream == HOST or seen in self._unforked:
            return
        self._unforked.add(seen)
        start = Access(0, "", CALLER, "", "starts")
        missing = f"nothing makes {stream_name(access.stream)} wait for the caller's stream before, so {harm}"
        self.races.append(Race(UNFORKED, access, start, missing))

    def _unrecorded(self, step: Step, event: str) -> None:
        wait = Access(step.line, "", step.stream, event, "waits for")
        missing = "nothing in this graph records the event before, so the wait orders nothing"
        self.races.append(Race(UNRECORDED, wait, wait, missing))

    def _report_unordered(self, first: Access, second: Access, awaited: int | None = None) -> None:
        """`awaited` is the stream that the second access does not wait for, by default the first's."""
        awaited = first.stream if awaited is None else awaited
        missing = f"nothing makes {stream_name(second.stream)} wait for {stream_name(awaited)} in between"
        self.races.append(Race(UNORDERED, first, second, missing))

    def _report_early_free(self, pending: _Pending, allocation: Access) -> None:
        access, free = pending.epoch.access, pending.free
        missing = f"nothing makes {stream_name(free.stream)} wait for {stream_name(access.stream)} before the free"
        self.races.append(Race(FREED_EARLY, access, free, missing, allocation))

    def _report_dead(self, access: Access, history: _History | None) -> None:
        if history is None or history.freed is None:
            self.races.append(Race(UNKNOWN_STORAGE, access, access, "nothing allocates it before"))
        else:
            missing = f"line {history.freed.line} has freed it before"
            self.races.append(Race(AFTER_FREE, access, history.freed, missing))


def _join(clock: Clock, other: Clock) -> None:
    for stream, time in other.items():
        if clock.get(stream, 0) < time:
            clock[stream] = time
