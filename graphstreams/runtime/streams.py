"""Streams and events of rewritten graphs, made once and shared by role.

The generated wrappers call `acquire` with the stream that their caller is on. Aux streams belong to that stream: work of
two callers on different streams never meets on an aux stream, so a block freed by one is never handed to the other there.
Each thread has its own, since an event re-recorded by a second thread would change what a wait of the first means.

No aux stream is one of torch's: those are 32, given out in turn (`c10/cuda/CUDAStream.cpp`), so that sooner or later the
stream of a caller, of a library or of another aux stream would be the same, and on it a block that a kernel of ours still
reads could be handed out.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch

from graphstreams.runtime.driver import new_stream

Key = tuple[int, int, int]  # device index and stream handle of the caller, priority


class _Pool:
    """Aux streams of one priority, and events, that belong to one caller's stream."""

    def __init__(self, device: torch.device, priority: int) -> None:
        self.device, self.priority = device, priority
        self.streams: list[torch.cuda.Stream] = []
        self.events: list[torch.cuda.Event] = []
        self.taken: dict[tuple[int, int], tuple[Any, ...]] = {}

    def take(self, streams: int, events: int) -> tuple[Any, ...]:
        while len(self.streams) < streams:
            self.streams.append(new_stream(self.device, self.priority))
        while len(self.events) < events:
            self.events.append(torch.cuda.Event())
        return (*self.streams[:streams], *self.events[:events])


class _Lease:
    """A pool in the hands of one thread. When that ends, the next one with the same caller's stream gets it.

    Whatever the first has enqueued on the caller's stream, its joins included, the second's fork waits for.
    """

    def __init__(self, key: Key, device: torch.device) -> None:
        idle = _idle.get(key)
        try:
            self.pool = idle.pop() if idle else _Pool(device, key[2])
        except IndexError:  # another thread was faster
            self.pool = _Pool(device, key[2])
        self.key, self._idle = key, _idle  # by itself, for at the end of the process globals go first

    def __del__(self) -> None:
        self._idle.setdefault(self.key, []).append(self.pool)


class _PoolsOfThread(threading.local):
    """What one thread has."""

    def __init__(self) -> None:
        self.by_stream: dict[Key, _Pool] = {}
        self.leases: list[_Lease] = []  # of those pools
        self.callers: dict[tuple[int, int], torch.cuda.Stream] = {}  # by device index and stream handle
        self.capturing: dict[int, torch.cuda.Stream] = {}  # by device index


_idle: dict[Key, list[_Pool]] = {}  # pools of threads that have ended
_pools = _PoolsOfThread()


def current_stream(device: int) -> torch.cuda.Stream:
    """The current stream of a device, as `torch.cuda.current_stream` gives it, in a tenth of its host time."""
    handle = torch._C._cuda_getCurrentRawStream(device)
    stream = _pools.callers.get((device, handle))
    if stream is None:
        stream = _pools.callers[device, handle] = torch.cuda.current_stream(device)
    return stream


def capture_stream(device: int) -> torch.cuda.Stream:
    """The stream on which plans are captured to be measured: one a device, for libraries keep memory for each.

    Nobody else has it, whose work the capture might take in.
    """
    stream = _pools.capturing.get(device)
    if stream is None:
        stream = _pools.capturing[device] = new_stream(torch.device("cuda", device))
    return stream


def acquire(caller: torch.cuda.Stream, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
    """`streams` aux streams of a CUDA priority followed by `events` events, for work forked from the stream `caller`.

    The same objects come back for the same thread and caller's stream; nothing is made after the first call.
    """
    key = (caller.device_index, caller.cuda_stream, priority)
    pool = _pools.by_stream.get(key)
    if pool is None:
        lease = _Lease(key, caller.device)
        _pools.leases.append(lease)
        pool = _pools.by_stream[key] = lease.pool
    taken = pool.taken.get((streams, events))
    if taken is None:
        taken = pool.taken[streams, events] = pool.take(streams, events)
    return taken


class joined_on_error:  # noqa: N801 - read as a function in generated code
    """Within this context an exception leaves no work on aux streams that the caller's stream does not wait for.

    What the interrupted call has allocated is freed behind it, and its inputs may be used again.
    """

    __slots__ = ("_caller", "_streams")

    def __init__(self, caller: torch.cuda.Stream, *streams: torch.cuda.Stream) -> None:
        self._caller, self._streams = caller, streams

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            for stream in self._streams:
                self._caller.wait_stream(stream)
