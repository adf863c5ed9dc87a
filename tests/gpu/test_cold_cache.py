"""Check on a GPU that code which is timed behind an empty L2 cache finds nothing there."""

from __future__ import annotations

import pytest
import torch

from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.timing import medians_in_turns

pytestmark = pytest.mark.gpu


def test_what_fits_into_l2_is_read_from_memory_again() -> None:
    size = torch.cuda.get_device_properties(0).L2_cache_size // 2
    values, largest = torch.zeros(size // 4, device="cuda"), torch.zeros((), device="cuda")

    def read() -> None:
        for _ in range(4):  # of which only the first has to wait for memory
            torch.amax(values, dim=0, out=largest)

    replayer = KernelReplayer([[lambda: None]])
    (warm,) = medians_in_turns([replayer.capture_call(read)])
    cold, again = replayer.cold_times([read, read])
    assert cold > warm + 2 and again > warm + 2, (warm, cold, again)  # 30 MB take an H200 more than 6 us from memory
