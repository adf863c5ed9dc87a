"""Tell with which of torch's CUDA allocators streamed graphs are sound.

A block of an aux stream that the caller's stream has read is freed once the caller's stream waits for that stream. It is safe
from then on, because the aux stream uses it only after its next fork. That holds if blocks stay with their streams.

The text of the latest settings does not tell the state, because settings that it does not name keep their values. So the
allocator is asked for its state. The time that takes grows with the number of its blocks, so it is asked when a graph is
compiled or looked up in a cache, not when one is called.
Read in torch 2.14.1 and 2.15.0: `c10/cuda/CUDACachingAllocator.cpp`, `c10/core/AllocatorConfig.h`, `torch/cuda/memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_ALL_POOLS_WITHOUT_TRACES = (0, 0, False)


@dataclass(frozen=True)
class AllocatorState:
    """The state that decides whether streamed graphs are sound with an allocator. None: the allocator can't be asked."""

    backend: str
    expandable: bool | None = False  # whether new segments are expandable
    holds_expandable: bool | None = False  # whether some segments are, perhaps because the setting was on earlier


def state(backend: Callable[[], str] | None = None, snapshot: Callable[[], Mapping[str, Any]] | None = None) -> AllocatorState:
    """Return the state of the allocator in use, by default torch's own for CUDA.

    `backend` returns its name. `snapshot` returns what `torch._C._cuda_memorySnapshot` does: "allocator_settings", "segments".
    """
    name = (backend or torch.cuda.memory.get_allocator_backend)()
    if name != "native":
        return AllocatorState(name)
    try:
        seen = snapshot() if snapshot else torch._C._cuda_memorySnapshot(_ALL_POOLS_WITHOUT_TRACES)
        expandable = seen["allocator_settings"]["expandable_segments"]
        held = [segment["is_expandable"] for segment in seen["segments"]]
    except Exception:  # whatever the error, nothing is known
        return AllocatorState(name, None, None)
    if not all(isinstance(each, bool) for each in (expandable, *held)):
        return AllocatorState(name, None, None)
    return AllocatorState(name, expandable, any(held))


def unsupported_allocator(found: AllocatorState | None = None) -> str:
    """Return why graphs have to stay serial with an allocator in state `found`, by default the one in use; empty if none."""
    found = found or state()
    if found.backend != "native":
        return f"the allocator {found.backend} hands a block that was freed to any stream"
    # `unmapHandles` waits for the segment's own stream only, before memory that another may still read is unmapped.
    if found.expandable is None or found.holds_expandable is None:
        return "this version of torch does not tell whether the allocator's segments are expandable"
    if found.expandable:
        return "with expandable_segments the allocator unmaps memory while a kernel of another stream may read it"
    if found.holds_expandable:
        return (
            "the allocator holds memory from the time when expandable_segments was on, and may unmap it while a kernel of "
            "another stream reads it; start the process with expandable_segments off"
        )
    return ""
