"""The CUDA driver by `ctypes`, for what torch does not offer. Read in the driver API 12, `cuda.h`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream, which is torch's own


@cache
def driver() -> Any:
    """The library. Raises OSError where there is none."""
    return ctypes.CDLL("libcuda.so.1")


def check(status: int, what: str) -> None:
    """Raise RuntimeError where a call of the driver did not succeed."""
    if status:
        raise RuntimeError(f"the CUDA driver could not {what}: error {status}")


def new_stream(device: torch.device, priority: int = 0) -> torch.cuda.Stream:
    """A stream that nobody else has. It is never destroyed. Raises RuntimeError where the driver makes none."""
    handle = ctypes.c_void_p()
    with torch.cuda.device(device):
        status = driver().cuStreamCreateWithPriority(ctypes.byref(handle), ctypes.c_uint(_NON_BLOCKING), ctypes.c_int(priority))
    check(status, "make a stream")
    return torch.cuda.ExternalStream(handle.value, device)  # type: ignore[no-untyped-call]
