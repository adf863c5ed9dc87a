"""Look through what Inductor wraps around the IR of a value. Read in torch 2.15.0: `_inductor/ir.py` (MutableBox)."""

from __future__ import annotations

from typing import Any

from torch._inductor import ir


def without_boxes(value: Any) -> Any:
    """Return the IR value inside the boxes by which Inductor replaces a value once it is stored."""
    while isinstance(value, ir.MutableBox):
        value = value.data
    return value
