"""Find the races of a trace with vector clocks: two accesses to one storage, one of them a write, that nothing orders.

"Happens before" is Lamport's ("Time, Clocks, and the Ordering of Events in a Distributed System", CACM 1978). Vector clocks
are Fidge's and Mattern's (1988). Keeping only the last write and the last read of each stream, as epochs, is FastTrack's
(Flanagan and Freund, PLDI 2009). The time is linear in steps times streams.

Memory follows CUDA's caching allocator:
- A free hands the block, when the host runs it, to the pool of the stream that allocated it. The next allocation on that stream
  may get it, so every later allocation there must be ordered after each access to the block that the stream had not waited for
  by then.
- An allocation counts as a use of its block, which is strict if a wait stands between an allocation and its first use.
- The next trace may get what this one freed on an aux stream. That is in order: aux streams belong to one caller's stream
  (`runtime/streams.py`), all work is joined into that stream at the end, and the next trace forks from it.
- An allocation ahead of its stream's fork is refused. A stream takes part in the capture of a CUDA graph only from the fork on,
  so the block would not come from that graph's pool.
- An output outlives the trace and may be dropped at any time, even between two lines of a later call: another thread on the
  caller's stream gives it to a reader there and drops it after that call has forked. Work that nothing orders behind that
  reader would then use a block of an aux stream, so outputs have to be in memory of the caller's stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import singledispatchmethod

from graphstreams.verification.elements import Elements, disjoint
from graphstreams.verification.races import (
    AFTER_FREE,
    FREED_EARLY,
    OUTPUT_ON_AUX,
    UNFORKED,
    UNJOINED,
    UNKNOWN_STORAGE,
    UNORDERED,
    UNRECORDED,
    AccessSite,
    Race,
)
from graphstreams.verification.trace import (
    CALLER,
    COLLECTIVES,
    HOST,
    AllocateStep,
    FinishStep,
    FreeStep,
    LaunchStep,
    RecordStep,
    StartStep,
    Step,
    SynchronizeStep,
    Trace,
    WaitStep,
    stream_name,
)

Clock = Counter[int]  # per stream, how many of its launches have happened before; `|=` keeps the later time of each stream


@dataclass(frozen=True)
class _Epoch:
    """An access and its time: the number of the launch on its own stream."""

    access: AccessSite
    time: int

    def before(self, clock: Clock) -> bool:
        """Return whether the access has happened before what has this clock."""
        return clock[self.access.stream] >= self.time


@dataclass
class _History:
    """What happened to one storage: its allocation, the last write of each part, and the last read of each stream since.

    A write of the whole storage, whose part is None, takes the place of all before it.
    """

    stream: int  # the stream that allocated it
    allocation: AccessSite | None = None
    before: Clock = field(default_factory=Counter)  # what that stream had waited for at the allocation
    writes: dict[Elements | None, _Epoch] = field(default_factory=dict)
    reads: dict[int, _Epoch] = field(default_factory=dict)
    raced: list[_Epoch] = field(default_factory=list)  # earlier accesses that a write did not wait for; a free has to
    freed: AccessSite | None = None

    def conflicting(self, writes: bool, part: Elements | None) -> list[_Epoch]:
        """Return the accesses that a read or a write of a part has to come after."""
        reads = self.reads.values() if writes else ()
        return [*reads, *(epoch for other, epoch in self.writes.items() if not disjoint(part, other))]

    def add(self, epoch: _Epoch, part: Elements | None) -> None:
        """Note an access that was checked. What it comes after, and all that could touch the same elements, is forgotten."""
        if epoch.access.action != "write":
            self.reads[epoch.access.stream] = epoch
        elif part is None:
            self.writes, self.reads = {None: epoch}, {}
        else:
            self.writes[part] = epoch


def find_races(trace: Trace) -> list[Race]:
    """Return all races of the trace in the order in which they show. An empty list is the proof that there is none.

    If several accesses race with one later access, the last write and the last read of each stream are named.
    """
    walk = _Walk(trace)
    for step in trace.steps:
        walk.do(step)
    walk.finish(trace)
    return walk.races


class _Walk:
    """The state of one walk over a trace."""

    def __init__(self, trace: Trace) -> None:
        self.races: list[Race] = []
        self._host: Clock = Counter()
        # The caller's time 1 is what it enqueued before the graph.
        self._clocks: dict[int, Clock] = {CALLER: Counter({CALLER: 1}), HOST: self._host}
        self._events: dict[str, Clock] = {}
        self._storages = {name: _History(CALLER) for name in trace.inputs}
        # Accesses to freed blocks that the pool's stream had not waited for at the free.
        self._pools: dict[int, list[tuple[_Epoch, AccessSite]]] = {}
        self._last: dict[int, _Epoch] = {}
        self._unforked: set[tuple[int, str]] = set()  # stream and action that were reported

    def _clock(self, stream: int) -> Clock:
        if stream not in self._clocks:
            self._clocks[stream] = Counter(self._host)
        return self._clocks[stream]

    def _after_host(self) -> None:
        """Order all that is enqueued from here on after what the host has done and waited for."""
        for clock in self._clocks.values():
            clock |= self._host

    @singledispatchmethod
    def do(self, step: Step) -> None:
        """Take one step of the trace."""
        raise TypeError(f"not a step of a trace: {step!r}")

    @do.register
    def _(self, step: LaunchStep) -> None:
        self._launch(step, step.stream)
        if step.stream == HOST:
            self._after_host()

    @do.register
    def _(self, step: StartStep) -> None:
        clock = self._clock(step.runs_on)
        clock |= self._clock(step.stream)
        self._launch(step, step.runs_on)

    @do.register
    def _(self, step: FinishStep) -> None:
        clock = self._clock(step.stream)
        for number in step.collectives:
            clock |= self._clock(COLLECTIVES + number)
        self._launch(step, step.stream)

    @do.register
    def _(self, step: RecordStep) -> None:
        self._events[step.event] = Counter(self._clock(step.stream))

    @do.register
    def _(self, step: WaitStep) -> None:
        clock = self._clock(step.stream)
        clock |= self._awaited(step, step.event)

    @do.register
    def _(self, step: SynchronizeStep) -> None:
        done = list(self._clocks.values()) if step.event is None else [self._awaited(step, step.event)]
        for clock in done:
            self._host |= clock
        self._after_host()

    @do.register
    def _(self, step: AllocateStep) -> None:
        clock = self._clock(step.stream)
        allocation = AccessSite(step.line, "", step.stream, step.storage, "allocate")
        self._check_fork(allocation, clock, "a CUDA graph that captures this would not own the memory")
        # The stream, or one that it has waited for, may only just have used the block. Whatever uses the storage, on any
        # stream, has to come after that.
        self._storages[step.storage] = _History(step.stream, allocation, Counter(clock))
        for epoch, free in self._pools.pop(step.stream, ()):
            # What is ordered now is ordered for every later allocation on this stream too, so nothing is kept.
            if not epoch.before(clock):
                access = epoch.access
                missing = f"nothing makes {stream_name(free.stream)} wait for {stream_name(access.stream)} before the free"
                self.races.append(Race(FREED_EARLY, access, free, missing, allocation))

    @do.register
    def _(self, step: FreeStep) -> None:
        history = self._alive(AccessSite(step.line, "", step.stream, step.storage, "free"))
        if history is None:
            return
        free = AccessSite(step.line, "", history.stream, step.storage, "free")
        clock = self._clock(history.stream)
        accesses = dict.fromkeys((*history.reads.values(), *history.writes.values(), *history.raced))
        pending = [(epoch, free) for epoch in accesses if not epoch.before(clock)]
        if pending and history.stream != HOST:  # the allocator of pinned memory waits for its readers itself
            self._pools.setdefault(history.stream, []).extend(pending)
        if step.certain:
            history.freed = free

    def finish(self, trace: Trace) -> None:
        """Check that the caller's stream waits for all streams, and that no output is in an aux stream's memory."""
        clock = self._clocks[CALLER]
        last = max((step.line for step in trace.steps), default=0)
        for stream, epoch in self._last.items():
            if not epoch.before(clock):
                end = AccessSite(last, "", CALLER, "", "returns")
                missing = f"the caller's stream does not wait for {stream_name(stream)} before the graph returns"
                self.races.append(Race(UNJOINED, epoch.access, end, missing))
        for storage in trace.outputs:
            history = self._storages.get(storage)
            if history is not None and history.allocation is not None and history.stream not in (CALLER, HOST):
                end = AccessSite(last, "", CALLER, storage, "returns")
                missing = (
                    "the graph returns it, and when the caller drops it that stream may use the memory for something else "
                    "in a later call, while the caller's stream still reads it"
                )
                self.races.append(Race(OUTPUT_ON_AUX, history.allocation, end, missing))

    def _launch(self, step: LaunchStep, stream: int) -> None:
        """Check what a launch on `stream` touches, and remember it."""
        clock = self._clock(stream)
        launch = AccessSite(step.line, step.name, stream, "", "runs")
        self._check_fork(launch, clock, "the inputs may not be ready")
        clock[stream] = time = clock[stream] + 1
        parts = dict(step.parts)
        for action, storages in (("read", step.reads), ("write", step.writes)):
            for storage in storages:
                access = AccessSite(step.line, step.name, stream, storage, action)
                self._access(_Epoch(access, time), clock, parts.get(storage))
        self._last[stream] = _Epoch(launch, time)

    def _access(self, epoch: _Epoch, clock: Clock, part: Elements | None) -> None:
        """Check a read or a write of a launch against what went before, and remember it. Without a part it is of all."""
        access = epoch.access
        history = self._alive(access)
        if history is None:
            return
        late = next((stream for stream, time in history.before.items() if clock[stream] < time), None)
        if late is not None and history.allocation is not None:
            self._report_unordered(history.allocation, access, late)
            history.before.clear()
        writes = access.action == "write"
        for earlier in history.conflicting(writes, part):
            if not earlier.before(clock):
                self._report_unordered(earlier.access, access)
                history.raced += [earlier] if writes else []
        history.add(epoch, part)

    def _alive(self, access: AccessSite) -> _History | None:
        """Return the history of the storage, or report that it has been freed or that nothing allocates it."""
        history = self._storages.get(access.storage)
        if history is None:
            self.races.append(Race(UNKNOWN_STORAGE, access, access, "nothing allocates it before"))
        elif history.freed is not None:
            missing = f"line {history.freed.line} has freed it before"
            self.races.append(Race(AFTER_FREE, access, history.freed, missing))
            return None
        return history

    def _check_fork(self, access: AccessSite, clock: Clock, harm: str) -> None:
        seen = (access.stream, access.action)
        if clock[CALLER] or access.stream == HOST or seen in self._unforked:
            return
        self._unforked.add(seen)
        start = AccessSite(0, "", CALLER, "", "starts")
        missing = f"nothing makes {stream_name(access.stream)} wait for the caller's stream before, so {harm}"
        self.races.append(Race(UNFORKED, access, start, missing))

    def _awaited(self, step: Step, event: str) -> Clock:
        """Return the clock of an event that a step waits for, or report that nothing records it."""
        if event not in self._events:
            wait = AccessSite(step.line, "", step.stream, event, "waits for")
            missing = "nothing in this graph records the event before, so the wait orders nothing"
            self.races.append(Race(UNRECORDED, wait, wait, missing))
        return self._events.get(event, Counter())

    def _report_unordered(self, first: AccessSite, second: AccessSite, awaited: int | None = None) -> None:
        """Report two accesses. `awaited` is the stream that the second does not wait for, by default the first's."""
        awaited = first.stream if awaited is None else awaited
        missing = f"nothing makes {stream_name(second.stream)} wait for {stream_name(awaited)} in between"
        self.races.append(Race(UNORDERED, first, second, missing))
