"""Process groups for examples: of the ranks that torchrun started, of one rank, or of ranks that are not there."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 300  # that a rank waits for the others before it gives up


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks, and the name of their process group; None if there is one rank only."""

    rank: int = 0
    size: int = 1
    group: str | None = None

    def gathered(self, value: Any) -> list[Any]:
        """Return the `value` of each rank, which all have to ask for. Raises RuntimeError if a rank does not answer."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=_on_host())
        return found


def _on_host() -> dist.ProcessGroup:
    """Return the default group. Its backend for tensors of the host carries objects, so no stream of the GPU is used."""
    assert dist.group.WORLD is not None
    return dist.group.WORLD


@contextmanager
def started_ranks() -> Iterator[Ranks]:
    """Yield the ranks that torchrun started, each with a GPU of its own if there are GPUs; one rank without torchrun.

    CUDA graphs with collectives have to be gone when the context ends, because NCCL waits for them. Raises RuntimeError for
    more ranks than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    local, gpu = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    if gpu:
        if local >= torch.cuda.device_count():
            raise RuntimeError(f"rank {local} has no GPU: NCCL takes one a rank, and there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(seconds=SECONDS))
    yield Ranks(dist.get_rank(), size, _on_host().group_name)
    # Not after an exception, whose traceback may hold a CUDA graph.
    gc.collect()
    dist.destroy_process_group()


@contextmanager
def fake_ranks(size: int) -> Iterator[Ranks]:
    """Yield rank 0 of a process group whose other ranks are not there, for tracing and planning; one rank for a size of 1."""
    if size == 1:
        yield Ranks()
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield Ranks(0, size, _on_host().group_name)
    finally:
        dist.destroy_process_group()
