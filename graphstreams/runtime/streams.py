"""Hold the aux streams and events of rewritten graphs, which are made once and shared by all graphs.

A generated wrapper asks for those that belong to its caller's stream. So the work of callers on two streams never shares an
aux stream, and a block that one caller frees is never handed to the other on it. Each thread has its own, because a second
thread that recorded the same event would change what a wait of the first thread means.

No aux stream is one of torch's: torch gives out 32 streams in turn (`c10/cuda/CUDAStream.cpp`), so one would sooner or later
also be the stream of a caller, of a library or another aux stream, on which a block that our kernels still read could be
handed out.
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
_NEEDED = {  # names in torch._C, and what each is for
    "_cuda_setStream": _STREAMS,
    "_cuda_getCurrentStream": _STREAMS,
    "_CudaEventBase": _STREAMS,
    "_cuda_isCurrentStreamCapturing": "by which a call is seen to be captured",  # runtime/dispatch.py
}


def missing_stream_api(at_hand: bool) -> str:
    """Return why streamed graphs cannot run with this torch; empty if they can, or if there is no GPU.

    With `at_hand` the GPU is a real one, and setting a stream is tried on it, once per process.
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
    """Return whether the context of an aux stream sets that stream and then the caller's, as `_set_stream` is called here."""
    caller = torch.cuda.current_stream()
    stream = new_aux_stream(caller, 0)
    try:
        with stream:
            inside = torch._C._cuda_getCurrentStream(caller.device_index)
        return inside == stream.own and torch._C._cuda_getCurrentStream(caller.device_index) == stream.callers
    except (TypeError, RuntimeError, OverflowError):  # such as from a torch that takes the arguments in another order
        return False
    finally:
        torch.cuda.set_stream(caller)


class AuxStream(torch.cuda.ExternalStream):
    """A stream whose context is entered from the caller's stream that it belongs to, and leads back to that stream.

    The context of torch's own class looks up which stream is current: 0.83 us of host time, against 0.35 us for two calls of
    `_cuda_setStream` (H200 machine, torch 2.15.0). Generated code nests no contexts; the verifier refuses nested ones.
    """

    own: StreamId
    callers: StreamId

    def __enter__(self) -> AuxStream:
        _set_stream(*self.own)  # type: ignore[misc]
        return self

    def __exit__(self, *error: object) -> None:
        _set_stream(*self.callers)  # type: ignore[misc]


def new_aux_stream(caller: torch.cuda.Stream, priority: int) -> AuxStream:
    """Return a new aux stream for work forked from the stream `caller`."""
    stream: Any = new_stream(caller.device, priority, AuxStream)
    stream.own, stream.callers = _id(stream), _id(caller)
    return stream


def _id(stream: torch.cuda.Stream) -> StreamId:
    return stream.stream_id, stream.device_index, stream.device_type


class _Pool:
    """The aux streams of one priority, and the events, that belong to one caller's stream."""

    def __init__(self, caller: torch.cuda.Stream, priority: int) -> None:
        self.caller, self.priority = caller, priority
        self.streams: list[AuxStream] = []
        self.events: list[torch._C._CudaEventBase] = []

    def take(self, streams: int, events: int) -> tuple[Any, ...]:
        """Return that many aux streams, then that many events; make those that are missing."""
        while len(self.streams) < streams:
            self.streams.append(new_aux_stream(self.caller, self.priority))
        while len(self.events) < events:
            # Whose `record` and `wait` are C functions; those of `torch.cuda.Event` are Python ones (torch/cuda/streams.py).
            self.events.append(torch._C._CudaEventBase())
        return (*self.streams[:streams], *self.events[:events])


class _Lease:
    """A pool in the hands of one thread. When the thread ends, the next thread with the same caller's stream gets the pool.

    The next thread's fork waits for all that the first has enqueued on the caller's stream, its joins included.
    """

    def __init__(self, key: Key, caller: torch.cuda.Stream) -> None:
        try:
            self.pool = _idle[key].pop()
        except (KeyError, IndexError):  # there is none, or another thread was faster
            self.pool = _Pool(caller, key[2])
        self.key, self._idle = key, _idle  # at the end of the process the global name may be gone before the lease

    def __del__(self) -> None:
        self._idle.setdefault(self.key, []).append(self.pool)


class _PoolsOfThread(threading.local):
    """The pools of one thread."""

    def __init__(self) -> None:
        self.by_stream: dict[Key, _Lease] = {}
        self.of_calls: dict[tuple[StreamId, int, int, int], tuple[Any, ...]] = {}
        self.capturing: dict[int, torch.cuda.Stream] = {}  # by device index


_idle: dict[Key, list[_Pool]] = {}  # pools of threads that have ended
_pools = _PoolsOfThread()


def capture_stream(device: int) -> torch.cuda.Stream:
    """Return the stream on which plans are captured to be measured: one per device, because libraries keep memory per stream.

    Nothing else uses it, so that a capture holds no other work.
    """
    stream = _pools.capturing.get(device)
    if stream is None:
        stream = _pools.capturing[device] = new_stream(torch.device("cuda", device))
    return stream


def acquire(caller: torch.cuda.Stream, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
    """Return `streams` aux streams of a CUDA priority, then `events` events, for work forked from the stream `caller`.

    Every call with the same arguments in the same thread returns the same objects.
    """
    key = (caller.device_index, caller.stream_id, priority)
    if key not in _pools.by_stream:
        _pools.by_stream[key] = _Lease(key, caller)
    return _pools.by_stream[key].pool.take(streams, events)


def acquire_for_call(device: int, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
    """Return the current stream of the device with index `device`, then what `acquire` returns for it.

    That is all that a call of a wrapper needs, in one look-up.
    """
    # The key has the id of the stream, because one CUDA stream may have several: as one of torch's and as an external one.
    key = (torch._C._cuda_getCurrentStream(device), streams, events, priority)
    taken = _pools.of_calls.get(key)
    if taken is None:
        caller = torch.cuda.current_stream(device)
        taken = _pools.of_calls[key] = (caller, *acquire(caller, streams, events, priority))
    return taken


def join(caller: torch.cuda.Stream, *streams: torch.cuda.Stream) -> None:
    """Let the stream `caller` wait for all that was enqueued on `streams`, so that an interrupted call leaves nothing unjoined.

    What the call has allocated is then freed after that work, and its inputs may be used again. `caller` is made current,
    because a signal may interrupt the context of an aux stream. A stream that cannot be joined, as in a capture that the
    exception ends, is skipped, so that the exception itself is what the user sees.
    """
    _set_stream(*_id(caller))  # type: ignore[misc]
    for stream in streams:
        with contextlib.suppress(RuntimeError):
            caller.wait_stream(stream)
