"""Check which bytes the prefetch by sums loads: `test_prefetch.py` runs this file with TRITON_INTERPRET=1.

The other forms have no value to look at, and Triton's interpreter runs no assembly; they have the same loop.
"""

from __future__ import annotations

from functools import reduce
from operator import xor

import pytest
import torch

from graphstreams.kernels.prefetch import Prefetch, kernel, program


@pytest.mark.parametrize("size", [128, 256, 1024, 1152, 5000])
@pytest.mark.parametrize("programs", [1, 3, 7])
def test_sums_are_those_of_the_first_bytes(programs: int, size: int) -> None:
    x = torch.randint(-(2**31), 2**31, (1500,), generator=torch.Generator().manual_seed(1), dtype=torch.int64).to(torch.int32)
    work = program(size, Prefetch("sum", programs=programs, step=256, warps=1), 4)
    (each,) = work.launches
    out = torch.zeros(work.buffers[0].shape, dtype=torch.int32)
    kernel(each.kernel)[each.grid](x, out, **each.numbers, **each.constants)
    assert reduce(xor, out.tolist()) == reduce(xor, x[: size // 128 * 32].tolist())


def test_a_volatile_load_writes_what_it_follows() -> None:
    x, after = torch.arange(1000, dtype=torch.float32), torch.full((3,), 7.0, dtype=torch.bfloat16)
    before = x.clone()
    work = program(4000, Prefetch(step=512, programs=3, warps=1), 4)
    (each,) = work.launches
    out = torch.zeros(work.buffers[0].shape)
    kernel(each.kernel)[each.grid](x, after, out, **each.numbers, **each.constants)
    assert torch.equal(x, before) and out.tolist() == [7.0] * 3
