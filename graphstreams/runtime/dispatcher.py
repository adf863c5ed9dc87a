"""Ask torch's dispatcher about an operator. Read in torch 2.15.0: `torch/_ops.py` (OpOverload)."""

from __future__ import annotations

import torch


def is_composite(operator: torch._ops.OpOverload) -> bool:
    """Return whether an operator is composed of others, so that its schema does not tell what it returns.

    TorchScript's operators on lists, such as `aten::add_.t`, count as composed: the dispatcher does not know them.
    """
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd"))
    except RuntimeError:
        return True
