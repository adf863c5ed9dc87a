"""Replace tensors by fake CUDA tensors, which hold no memory. Read in torch 2.15.0: `_subclasses/fake_tensor.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def fake_cuda(value: torch.Tensor, mode: FakeTensorMode) -> FakeTensor:
    """Return a fake CUDA tensor with the size, strides and dtype of `value`."""
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")  # type: ignore[return-value]


@contextlib.contextmanager
def faked_parameters(module: torch.nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Make every parameter and buffer of `module` a fake CUDA tensor inside the context. Tied ones stay tied."""
    fakes: dict[int, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for child in module.modules():
            tables: tuple[dict[str, Any], ...] = (child._parameters, child._buffers)
            for table in tables:
                stack.callback(table.update, dict(table))
                for name, tensor in table.items():
                    if tensor is not None:
                        if id(tensor) not in fakes:
                            fakes[id(tensor)] = _fake_like(tensor, mode)
                        table[name] = fakes[id(tensor)]
        yield


def _fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = fake_cuda(tensor, mode)
    return torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
