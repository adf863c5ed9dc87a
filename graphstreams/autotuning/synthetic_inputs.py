"""Inputs for measuring, where the real ones are not known: their layout is what decides the time of most kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Layout:
    """A tensor without its values. Plain data, but for names that JSON can hold."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str  # "bfloat16"
    device: str  # "cuda:0"

    @staticmethod
    def of(value: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout:
        """The layout of `value`, a fake tensor perhaps, at other sizes."""
        return Layout(shape, strides, str(value.dtype).removeprefix("torch."), str(value.device))

    def make(self) -> torch.Tensor:
        """Normal random numbers, the same each time; zeros for integers, a valid index wherever there is one."""
        dtype = getattr(torch, self.dtype)
        made = torch.empty_strided(self.shape, self.strides, dtype=dtype, device=self.device)
        if dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            # From a generator of its own: the caller's random numbers stay what they are without a compile.
            return made.normal_(generator=torch.Generator(made.device).manual_seed(0))
        return made.zero_()


def described(argument: Any) -> Any:
    """What JSON can hold of an argument: a number, or the layout of a tensor."""
    return vars(argument) if isinstance(argument, Layout) else argument


def made(description: Any) -> Any:
    """The argument that `described` described, made up."""
    if not isinstance(description, dict):
        return description
    shape, strides = tuple(description["shape"]), tuple(description["strides"])
    return Layout(shape, strides, description["dtype"], description["device"]).make()
