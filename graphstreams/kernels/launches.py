"""What a form of a kernel does, as plain data: its buffers and its launches in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Buffer:
    """A contiguous tensor that launches write."""

    name: str
    shape: tuple[int | torch.SymInt, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Launch:
    """A launch of the kernel `kernel`: tensors by parameter, numbers, and constants that it is compiled for."""

    kernel: str
    grid: tuple[int | torch.SymInt, ...]
    tensors: Mapping[str, str]  # parameter: name of a buffer or of an operand
    writes: tuple[str, ...]  # those of the buffers that it writes
    numbers: Mapping[str, int | torch.SymInt]
    constants: Mapping[str, Any]
    warps: int


@dataclass(frozen=True)
class Program:
    """The buffers that launches need besides their operands, with the results first, and the launches."""

    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]
