"""Call the CUDA driver through `ctypes`, for what torch does not offer. Read in the driver API 12, `cuda.h`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream, which is torch's default stream


@cache
def driver() -> Any:
    """Return the driver's library. Raises OSError if there is none."""
    return ctypes.CDLL("libcuda.so.1")


def check(status: int, what: str) -> None:
    """Raise RuntimeError, which says `what` the driver could not do, unless the `status` of a call is success."""
    if status:
        raise RuntimeError(f"the CUDA driver could not {what}: error {status}")


def new_stream(
    device: torch.device, priority: int = 0, kind: type[torch.cuda.ExternalStream] | None = None
) -> torch.cuda.ExternalStream:
    """Return a new stream of a CUDA device, which nothing else uses, as an object of class `kind`. It is never destroyed.

    `priority` is CUDA's: 0, or less for a more urgent stream. May be called while a CUDA graph is being captured, and as the
    first thing that a thread does with CUDA. Raises OSError if there is no driver, RuntimeError if it makes no stream.
    """
    handle = ctypes.c_void_p()
    with torch.cuda.device(device):
        _have_context(torch.cuda.current_device())
        status = driver().cuStreamCreateWithPriority(ctypes.byref(handle), ctypes.c_uint(_NON_BLOCKING), ctypes.c_int(priority))
    check(status, "make a stream")
    return (kind or torch.cuda.ExternalStream)(handle.value, device)  # type: ignore[no-untyped-call]


def _have_context(device: int) -> None:
    """Make the primary context of the device with that index current in this thread, if the thread has no context.

    CUDA's runtime does so at its first call that needs one. `torch.cuda.device` calls nothing if the device is already the
    thread's own, as device 0 is from the start, so the thread may still be without a context. The context is never released,
    because the stream stays.
    """
    cuda, context, handle = driver(), ctypes.c_void_p(), ctypes.c_int()
    check(cuda.cuCtxGetCurrent(ctypes.byref(context)), "tell the context of a thread")
    if context.value:
        return
    check(cuda.cuDeviceGet(ctypes.byref(handle), ctypes.c_int(device)), "find a device")
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "give the context of a device")
    check(cuda.cuCtxSetCurrent(context), "set the context of a thread")
