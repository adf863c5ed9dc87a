"""Tell with which of torch's CUDA allocators streamed graphs are sound.

A block of an aux stream that the caller's stream has read is freed once the caller's stream waits for that stream. It is safe
from then on, because the aux stream uses it only after its next fork. That holds if blocks stay with their streams.

The text of the latest settings does not tell the state, because settings that it does not name keep their values. So the
allocator is asked for its state. The time that takes grows with the number of its blocks, so it is asked when a graph is
compiled or looked up in a cache, not when one is called.
Read in torch 2.14.1 and 2.15.0: `c10/cuda/CUDACachingAllocator.cpp`, `c10/core/AllocatorConfig.h`, `torch/cuda/memory.py`.
"""

from __future__ import annotations

import torch

_ALL_POOLS_WITHOUT_TRACES = (0, 0, False)


def unsupported_allocator() -> str:
    """Return why graphs have to stay serial with the CUDA allocator in use; empty if they need not."""
    backend = torch.cuda.memory.get_allocator_backend()
    if backend != "native":
        return f"the allocator {backend} hands a block that was freed to any stream"
    try:
        seen = torch._C._cuda_memorySnapshot(_ALL_POOLS_WITHOUT_TRACES)
        expandable = seen["allocator_settings"]["expandable_segments"]  # whether new segments are
        held = [segment["is_expandable"] for segment in seen["segments"]]  # perhaps because the setting was on earlier
    except Exception:  # whatever the error, nothing is known
        expandable, held = None, []
    # `unmapHandles` waits for the segment's own stream only, before memory that another may still read is unmapped.
    if not all(isinstance(each, bool) for each in (expandable, *held)):
        return "this version of torch does not tell whether the allocator's segments are expandable"
    if expandable:
        return "with expandable_segments the allocator unmaps memory while a kernel of another stream may read it"
    if any(held):
        return (
            "the allocator holds memory from the time when expandable_segments was on, and may unmap it while a kernel of "
            "another stream reads it; start the process with expandable_segments off"
        )
    return ""
