"""Compare the attention kernel that is planned without a GPU with the one that torch takes on this one."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphstreams.inductor.attention import Call, kernel_for
from graphstreams.ir.devices import device_at_hand

pytestmark = pytest.mark.gpu
NAMES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_planned_kernel_is_torchs(dtype: torch.dtype) -> None:
    differing = []
    lengths, sizes, masks = ((1, 1), (1, 512), (40, 40), (40, 128)), ((64, 64), (60, 60), (192, 128), (256, 256), (320, 320)), 3
    for (rows, columns), (size, of_value), mask, heads in itertools.product(lengths, sizes, range(masks), (8, 2)):
        query = torch.randn(2, 8, rows, size, dtype=dtype, device="cuda")
        key = torch.randn(2, heads, columns, size, dtype=dtype, device="cuda")
        value = torch.randn(2, heads, columns, of_value, dtype=dtype, device="cuda")
        bias = torch.zeros(rows, columns, dtype=dtype, device="cuda") if mask == 1 else None
        call = Call(query, key, value, bias, 0.0, mask == 2, heads != 8)
        planned = kernel_for(call, device_at_hand())
        taken = NAMES[torch._fused_sdp_choice(query, key, value, bias, 0.0, mask == 2, enable_gqa=heads != 8)]
        if planned != taken:
            differing.append((rows, columns, size, of_value, mask, heads, planned, taken))
    assert not differing
