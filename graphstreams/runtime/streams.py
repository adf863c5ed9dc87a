"""Streams and events of rewritten graphs, made once and shared by role.

The generated wrappers call `acquire` with the stream that their caller is on. Aux streams belong to that stream: work of
two callers on different streams never meets on an aux stream, so a block freed by one is never handed to the other there.
Each thread has its own, since an event re-recorded by a second thread would change what a wait of the first means.
"""

from __future__ import annotations

import threading
from typing import Any

import torch


class _PoolsOfThread(threading.local):
    """The pools that one thread has made, by device index and stream handle of the caller, and priority."""

    def __init__(self) -> None:
        self.by_stream: dict[tuple[int, int, int], _Pool] = {}
        self.callers: dict[tuple[int, int], torch.cuda.Stream] = {}  # by device index and stream handle
        self.capturing: dict[int, torch.cuda.Stream] = {}  # by device index


_pools = _PoolsOfThread()


class _Pool:
    """Aux streams of one priority, and events, that belong to one caller's stream."""

    def __init__(self, device: torch.device, priority: int) -> None:
        self.device, self.priority = device, priority
        self.streams: list[torch.cuda.Stream] = []
        self.events: list[torch.cuda.Event] = []
        self.taken: dict[tuple[int, int], tuple[Any, ...]] = {}

    def take(self, streams: int, events: int) -> tuple[Any, ...]:
        while len(self.streams) < streams:
            self.streams.append(torch.cuda.Stream(self.device, priority=self.priority))
        while len(self.events) < events:
            self.events.append(torch.cuda.Event())
        return (*self.streams[:streams], *self.events[:events])


def current_stream(device: int) -> torch.cuda.Stream:
    """The current stream of a device, as `torch.cuda.current_stream` gives it, in a tenth of its host time."""
    handle = torch._C._cuda_getCurrentRawStream(device)
    stream = _pools.callers.get((device, handle))
    if stream is None:
        stream = _pools.callers[device, handle] = torch.cuda.current_stream(device)
    return stream


def capture_stream(device: int) -> torch.cuda.Stream:
    """The stream on which plans are captured to be measured: one a device, for libraries keep memory for each."""
    stream = _pools.capturing.get(device)
    if stream is None:
        stream = _pools.capturing[device] = torch.cuda.Stream(device)
    return stream


def acquire(caller: torch.cuda.Stream, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
    """`streams` aux streams of a CUDA priority followed by `events` events, for work forked from the stream `caller`.

    The same objects come back for the same thread and caller's stream; nothing is made after the first call.
    """
    key = (caller.device_index, caller.cuda_stream, priority)
    pool = _pools.by_stream.get(key)
    if pool is None:
        pool = _pools.by_stream[key] = _Pool(caller.device, priority)
    taken = pool.taken.get((streams, events))
    if taken is None:
        taken = pool.taken[streams, events] = pool.take(streams, events)
    return taken
