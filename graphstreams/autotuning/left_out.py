"""Stands in for collectives while the other kernels of their graph are measured: no rank may run one by itself.

What a collective in place would have changed stays as it is, and what another one would have made is full of zeros, which are
in the range of every index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map


def zeros_for(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Return tensors of zeros in place of what a collective out of place gives, or a list of them, and do not run it.

    Sizes are those of its rule for tensors without data.
    """
    tensors: list[torch.Tensor] = []

    def without_data(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return value.to("meta")
        return value

    shapes = operator(*tree_map(without_data, args), **tree_map(without_data, kwargs))
    device = tensors[0].device
    return tree_map(lambda value: torch.zeros_like(value, device=device) if isinstance(value, torch.Tensor) else value, shapes)
