"""Which of torch's CUDA allocators streamed graphs are sound with. Read in torch 2.15.0: `c10/cuda/CUDACachingAllocator.cpp`.

A block of an aux stream that the caller's stream has read is freed once the caller's stream waits for that stream, and is safe
from then on, for the aux stream gets it behind its next fork only. That holds where blocks stay with their streams.
"""

from __future__ import annotations

import torch


def settings() -> tuple[str, str]:
    """Name and settings of the allocator."""
    text = getattr(torch._C, "_accelerator_getAllocatorSettings", lambda: "")()
    return torch.cuda.memory.get_allocator_backend(), str(text)


def unsuited() -> str:
    """Why graphs have to stay serial with the allocator in use; empty where they need not."""
    backend, text = settings()
    if backend != "native":
        return f"the allocator {backend} hands a block that was freed to any stream"
    if "expandable_segments:true" in text.replace(" ", "").lower():
        # `unmapHandles` waits for the segment's own stream only, before memory that another may still read is unmapped.
        return "with expandable_segments the allocator unmaps memory while a kernel of another stream may read it"
    return ""
