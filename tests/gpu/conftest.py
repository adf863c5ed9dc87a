"""Both sides of every comparison of bits are compiled with Inductor's setting `deterministic`.

Else each compile tunes the block sizes of its reductions by itself, and where two choose differently sums round differently.
"""

from collections.abc import Iterator

import pytest
import torch._inductor.config


@pytest.fixture(autouse=True)
def same_kernels() -> Iterator[None]:
    with torch._inductor.config.patch(deterministic=True):
        yield
