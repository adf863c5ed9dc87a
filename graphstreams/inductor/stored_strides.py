"""Define an operator that tells Inductor with which strides to store a value.

Without it Inductor leaves the strides to the uses that it lowers next. The operator returns nothing, so that readers read the
value itself. Read in torch 2.15.0: `_inductor/ir.py` (ExternKernel.require_strides), `_inductor/lowering.py`
(register_lowering).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.lowering import lowerings, register_lowering


@torch.library.custom_op("graphstreams::store", mutates_args=())
def store(value: torch.Tensor, strides: Sequence[int]) -> None:
    """Do nothing: in eager execution a value has its strides already."""


@store.register_fake
def _(value: torch.Tensor, strides: Sequence[int]) -> None:
    return None


STORE = torch.ops.graphstreams.store.default


def _lower_store(value: Any, strides: Sequence[int]) -> None:
    while isinstance(value, ir.TensorBox | ir.BaseView):  # the strides are those of the whole buffer
        value = value.data
    if isinstance(value, ir.StorageBox) and len(value.get_size()) == len(strides):
        ir.ExternKernel.require_exact_strides(ir.TensorBox(value), strides)


if STORE not in lowerings:
    register_lowering(STORE, type_promotion_kind=None)(_lower_store)
