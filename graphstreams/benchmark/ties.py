"""Compare sorted results of top-k, in which elements that compare equal may stand in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def equal_but_for_ties(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Return whether two sorted top-k, each of values and indices `[rows, k]`, agree in all but the order of ties.

    Values have to be equal place by place: zeros of both signs are, and so are NaN of any bits. For each run of equal values
    the same indices have to be there, in any order. Types and shapes have to agree.
    """
    (values, indices), (other_values, other_indices) = expected, found
    if _kind(values) != _kind(other_values) or _kind(indices) != _kind(other_indices):
        return False
    if not bool(_alike(values, other_values).all()):
        return False
    return torch.equal(_by_run(values, indices), _by_run(values, other_indices))


def _kind(x: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return x.shape, x.dtype


def _alike(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first == second) | (first.isnan() & second.isnan())


def _by_run(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return indices with those of each run of equal values in ascending order."""
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[:, 1:] = ~_alike(values[:, 1:], values[:, :-1])
    by_index = indices.sort(dim=-1, stable=True).indices
    by_run = starts.cumsum(-1).gather(-1, by_index).sort(dim=-1, stable=True).indices
    return indices.gather(-1, by_index.gather(-1, by_run))
