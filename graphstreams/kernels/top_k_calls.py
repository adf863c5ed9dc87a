"""Call top-k's kernels: launches by their plain data, and what a sorted result needs behind them."""

from __future__ import annotations

from typing import Any

import torch

from graphstreams.kernels.launches import Program
from graphstreams.kernels.top_k import Form, TopK, program


def kernel(name: str) -> Any:
    """Return a kernel by the name that launches have. Triton is imported here, for it need not be there otherwise."""
    from graphstreams.kernels import top_k_chunks, top_k_row

    return getattr(top_k_row if name == "top_k_row" else top_k_chunks, name)


def select(x: torch.Tensor, k: int, largest: bool, form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values and indices `[rows, k]` of the k largest, or smallest, elements of each row of `x` `[rows, length]`.

    They are those of `aten.topk` with `sorted=False` on CUDA, in the same order. Raises ValueError for what the form can't do.
    """
    top_k = TopK(x.shape[0], x.shape[1], k, x.dtype, x.stride(0), x.stride(1), largest)
    buffers = launch(x, program(top_k, form))
    return buffers["values"], buffers["indices"]


def in_order(values: torch.Tensor, indices: torch.Tensor, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values and indices `[rows, k]` of a top-k that is not sorted as `aten.topk` with `sorted=True` has them.

    The order of elements that compare equal is that of aten.sort: NaN are alike and largest, and so are zeros of both signs.
    """
    values, order = values.sort(-1, descending=largest)
    return values, indices.gather(-1, order)


def launch(x: torch.Tensor, work: Program) -> dict[str, torch.Tensor]:
    """Allocate the buffers of `work`, launch its kernels on `x` and return the buffers by name."""
    buffers = {each.name: torch.empty(each.shape, dtype=each.dtype, device=x.device) for each in work.buffers}
    for each in work.launches:
        pointers = {name: x if name == "x" else buffers[name] for name in each.tensors}
        kernel(each.kernel)[each.grid](**pointers, **each.numbers, **each.constants, num_warps=each.warps)
    return buffers
