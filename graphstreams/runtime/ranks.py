"""Tell which rank this process is, for logs and folders: plans and verdicts may differ from rank to rank."""

from __future__ import annotations


def current_rank() -> int | None:
    """Return the rank of this process; None if no process group is initialized."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank()


def several_ranks() -> bool:
    """Return whether this process is one of several ranks, which may have to compute the same values."""
    import torch.distributed as distributed

    return current_rank() is not None and distributed.get_world_size() > 1


def on_rank(name: str) -> str:
    """Return what a log calls a graph: its name, with the rank if there is one."""
    rank = current_rank()
    return name if rank is None else f"rank {rank}: {name}"


def folder_of_rank() -> str:
    """Return the name of the folder for this rank's reports; "." if there is no rank."""
    rank = current_rank()
    return "." if rank is None else f"rank{rank}"
