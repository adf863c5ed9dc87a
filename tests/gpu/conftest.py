"""Both sides of every comparison of bits are compiled so that rounding does not depend on what was fused into a kernel.

With Inductor's setting `deterministic` no compile tunes the block sizes of its reductions by itself. With
`emulate_precision_casts` Triton contracts no multiplication and addition into one operation with one rounding, which it
else does as it finds them in a kernel: where a graph on streams has a kernel more than serial, the last bit differs.
"""

from collections.abc import Iterator

import pytest
import torch._inductor.config


@pytest.fixture(autouse=True)
def same_kernels() -> Iterator[None]:
    with torch._inductor.config.patch(deterministic=True, emulate_precision_casts=True):
        yield
