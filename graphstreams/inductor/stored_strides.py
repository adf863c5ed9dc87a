"""An operator that says with which strides a value is stored, for Inductor would leave that to the uses that it meets next.

It gives nothing back: who reads the value reads the value itself. Read in torch 2.15.0: `_inductor/ir.py`
(ExternKernel.require_strides), `_inductor/lowering.py` (register_lowering).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.lowering import lowerings, register_lowering


@torch.library.custom_op("graphstreams::store", mutates_args=())
def store(value: torch.Tensor, strides: Sequence[int]) -> None:
    """Do nothing: where code runs as it is, values have the strides that they have."""


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
