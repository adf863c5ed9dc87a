"""Look through what Inductor wraps around the IR of a value. Read in torch 2.15.0: `_inductor/ir.py` (MutableBox)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch._inductor import ir


def without_boxes(value: Any) -> Any:
    """Return the IR value inside the boxes by which Inductor replaces a value once it is stored."""
    while isinstance(value, ir.MutableBox):
        value = value.data
    return value


def same_buffers(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether arguments are as they were, apart from other IR nodes for the same buffers."""

    def name(value: Any) -> str | None:
        return value.maybe_get_name() if isinstance(value, ir.IRNode) else None

    return all(
        before[key] is value or (name(value) is not None and name(before[key]) == name(value)) for key, value in after.items()
    )
