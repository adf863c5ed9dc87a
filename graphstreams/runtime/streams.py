"""Streams and events of rewritten graphs, made once and shared by role.

The generated wrappers ask for what belongs to the stream that their caller is on. Aux streams belong to that stream: work of
two callers on different streams never meets on an aux stream, so a block freed by one is never handed to the other there.
Each thread has its own, since an event re-recorded by a second thread would change what a wait of the first means.

No aux stream is one of torch's: those are 32, given out in turn (`c10/cuda/CUDAStream.cpp`), so that sooner or later the
stream of a caller, of a library or of another aux stream would be the same, and on it a block that a kernel of ours still
reads could be handed out.
"""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from typing import Any

import torch

from graphstreams.runtime.driver import new_stream

Key = tuple[int, int, int]  # device index and stream id of the caller, priority
StreamId = tuple[int, int, int]  # id, device index and device type, as torch's C functions take them

_set_stream = getattr(torch._C, "_cuda_setStream", None)  # missing from a torch without CUDA
_STREAMS = "by which streams are set"
_NEEDED = {
    "_cuda_setStream": _STREAMS,
    "_cuda_getCurrentStream": _STREAMS,
    "_CudaEventBase": _STREAMS,
    "_cuda_isCurrentStreamCapturing": "by which a call is seen to be captured",  # runtime/dispatch.py
}


def missing_stream_api(at_hand: bool) -> str:
    """Why streamed graphs cannot run with this torch; empty where they can, or where there is no GPU.

    With `at_hand` the GPU is a real one, and streams are tried on it once a process.
    """
    if not torch.cuda.is_available():
        return ""
    missing = [name for name in _NEEDED if not hasattr(torch._C, name)]
    if missing:
        return f"this torch has no torch._C.{missing[0]}, {_NEEDED[missing[0]]}"
    if at_hand and not _sets_streams():
        return "this torch's torch._C._cuda_setStream does not take a stream as its id, device index and device type"
    return ""


@cache
def _sets_streams() -> bool:
    """Whether the context of an aux stream leads to it and back: the arguments by position might be others one day."""
    caller = torch.cuda.current_stream()
    stream = new_aux_stream(caller, 0)
    try:
        with stream:
            inside = torch._C._cuda_getCurrentStream(caller.device_index)
        return inside == stream.own and torch._C._cuda_getCurrentStream(caller.device_index) == stream.callers
    except (TypeError, RuntimeError, OverflowError):  # an id in the place of an index is no device
        return False
    finally:
        torch.cuda.set_stream(caller)


class AuxStream(torch.cuda.ExternalStream):
    """A stream whose context leads from the caller's stream that it belongs to, and back there.

    Torch's own context looks up what was current: 0.83 us of host time, against 0.35 us for two calls of `_cuda_setStream`
    with arguments by position (H200 machine, torch 2.15.0). Generated code nests no contexts; the verifier refuses them.
    """

    own: StreamId
    callers: StreamId

    def __enter__(self) -> AuxStream:
        _set_stream(*self.own)  # type: ignore[misc]
        return self

    def __exit__(self, *error: object) -> None:
        _set_stream(*self.callers)  # type: ignore[misc]


def new_aux_stream(caller: torch.cuda.Stream, priority: int) -> AuxStream:
    """An aux stream for work forked from the stream `caller`."""
    stream: Any = new_stream(caller.device, priority, AuxStream)
    stream.own, stream.callers = _id(stream), _id(caller)
    return stream


def _id(stream: torch.cuda.Stream) -> StreamId:
    return stream.stream_id, stream.device_index, stream.device_type


class _Pool:
    """Aux streams of one priority, and events, that belong to one caller's stream."""

    def __init__(self, caller: torch.cuda.Stream, priority: int) -> None:
        self.caller, self.priority = caller, priority
        self.streams: list[AuxStream] = []
        self.events: list[torch._C._CudaEventBase] = []
        self.taken: dict[tuple[int, int], tuple[Any, ...]] = {}

    def take(self, streams: int, events: int) -> tuple[Any, ...]:
        while len(self.streams) < streams:
            self.streams.append(new_aux_stream(self.caller, self.priority))
        while len(self.events) < events:
            self.events.append(new_event())
        return (*self.streams[:streams], *self.events[:events])


class _Lease:
    """A pool in the hands of one thread. When that ends, the next one with the same caller's stream gets it.

    Whatever the first has enqueued on the caller's stream, its joins included, the second's fork waits for.
    """

    def __init__(self, key: Key, caller: torch.cuda.Stream) -> None:
        idle = _idle.get(key)
        try:
            self.pool = idle.pop() if idle else _Pool(caller, key[2])
        except IndexError:  # another thread was faster
            self.pool = _Pool(caller, key[2])
        self.key, self._idle = key, _idle  # by itself, for at the end of the process globals go first

    def __del__(self) -> None:
        self._idle.setdefault(self.key, []).append(self.pool)


class _PoolsOfThread(threading.local):
    """What one thread has."""

    def __init__(self) -> None:
        self.by_stream: dict[Key, _Pool] = {}
        self.leases: list[_Lease] = []  # of those pools
        self.of_calls: dict[tuple[StreamId, int, int, int], tuple[Any, ...]] = {}
        self.capturing: dict[int, torch.cuda.Stream] = {}  # by device index


_idle: dict[Key, list[_Pool]] = {}  # pools of threads that have ended
_pools = _PoolsOfThread()


def new_event() -> torch._C._CudaEventBase:
    """An event whose `record` and `wait` take a stream and are C functions: those of `torch.cuda.Event` are Python.

    Read in torch 2.15.0: `torch/cuda/streams.py`.
    """
    return torch._C._CudaEventBase()


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
    key = (caller.device_index, caller.stream_id, priority)
    pool = _pools.by_stream.get(key)
    if pool is None:
        lease = _Lease(key, caller)
        _pools.leases.append(lease)
        pool = _pools.by_stream[key] = lease.pool
    taken = pool.taken.get((streams, events))
    if taken is None:
        taken = pool.taken[streams, events] = pool.take(streams, events)
    return taken


def acquire_for_call(device: int, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
    """The current stream of the device with index `device`, followed by what `acquire` gives for it.

    All that a call of a wrapper needs, in one look-up.
    """
    # By its id: one CUDA stream may be current under several, as torch's own and as an external one.
    key = (torch._C._cuda_getCurrentStream(device), streams, events, priority)
    taken = _pools.of_calls.get(key)
    if taken is None:
        caller = torch.cuda.current_stream(device)
        taken = _pools.of_calls[key] = (caller, *acquire(caller, streams, events, priority))
    return taken


def join(caller: torch.cuda.Stream, *streams: torch.cuda.Stream) -> None:
    """Let the stream `caller` wait for all that was enqueued on others: an interrupted call leaves nothing that is not joined.

    What it has allocated is then freed behind that work, and its inputs may be used again. `caller` is made current: a signal
    may have come in the middle of a context of an aux stream. What cannot be joined, as in a capture that the exception ends,
    does not take the place of that exception.
    """
    _set_stream(*_id(caller))  # type: ignore[misc]
    for stream in streams:
        with contextlib.suppress(RuntimeError):
            caller.wait_stream(stream)
