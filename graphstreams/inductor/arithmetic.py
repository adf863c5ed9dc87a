"""Tell in which dtype a kernel computes, and which ATen operations it runs.

Read in torch 2.15.0: `_inductor/dependencies.py`, `backends/cuda/__init__.py`, `backends/cudnn/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import fx
from torch._inductor.virtualized import V

from graphstreams.inductor.accesses import bytes_touched, data_reads, hint
from graphstreams.inductor.operator_arithmetic import CONVOLUTION

TF32 = "tfloat32"  # float32 whose factors are rounded to 10 bits of mantissa


def arithmetic_dtype(nodes: Sequence[Any]) -> str:
    """Return the dtype of the largest operand of scheduler nodes, such as "bfloat16"; empty if they read nothing.

    It decides the rate of a matrix product. Called inside `V.set_graph_handler` of the nodes' graph.
    """
    operands = [(hint(bytes_touched(dep)), dep.name) for node in nodes for dep in data_reads(node)]
    size, name = max(operands, key=itemgetter(0), default=(0.0, ""))
    return str(V.graph.get_dtype(name)).removeprefix("torch.") if size > 0 else ""


def rounded(dtype: str, operator: str) -> str:
    """Return the dtype in which an operator computes on operands of `dtype`: TF32 if torch's settings let it round float32.

    By default they do for convolutions and not for matrix products.
    """
    cudnn: Any = torch.backends.cudnn
    settings = cudnn.conv if operator == CONVOLUTION else torch.backends.cuda.matmul
    return TF32 if dtype == "float32" and settings.fp32_precision == "tf32" else dtype


def operations(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Return the names of the ATen operations among FX nodes, sorted, without repeats."""
    return tuple(sorted({n.target._opname for n in nodes if isinstance(n.target, torch._ops.OpOverload)}))
