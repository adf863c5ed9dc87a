"""Check that collectives are not run while the other kernels of their graph are measured."""

from __future__ import annotations

import torch
import torch.distributed._functional_collectives
from torch import Tensor

from graphstreams.autotuning.left_out import zeros_for
from graphstreams.autotuning.recorded_launches import record_launches
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.pipeline.explain import capture
from tests.support.collective_modules import FUNCTIONAL, SMALL, EveryKind, fake_ranks
from tests.support.sample_modules import as_on_h200

WRAPPER = """
import torch
def call(args):
    x, calls = args
    args.clear()
    def collective(tensor, times):
        calls.append('run')
        return torch.cat([tensor] * times)
    def wait(tensor):
        calls.append('waited')
    buf0 = torch.ops._c10d_functional.all_gather_into_tensor.default(x, 2, '0')
    wait(buf0)
    buf1 = torch.add(buf0, 1)
    return (buf1, )
"""


def test_what_a_collective_out_of_place_gives_is_zeros_of_its_size() -> None:
    x = torch.ones(8, 3)
    assert torch.equal(zeros_for(FUNCTIONAL.all_gather_into_tensor.default, x, 2, "0"), torch.zeros(16, 3))
    assert torch.equal(zeros_for(FUNCTIONAL.reduce_scatter_tensor.default, x, "sum", 4, "0"), torch.zeros(2, 3))
    assert torch.equal(zeros_for(FUNCTIONAL.all_to_all_single.default, x, [1, 2], [4, 4], "0"), torch.zeros(3, 3))
    both = zeros_for(FUNCTIONAL.all_gather_into_tensor_coalesced.default, [x, x.int()], 2, "0")
    assert [(each.shape, each.dtype) for each in both] == [((16, 3), torch.float32), ((16, 3), torch.int32)]


def test_a_launch_that_is_left_out_is_not_run_now_or_later() -> None:
    """No process group is there, so running the collective would raise."""
    lines = WRAPPER.splitlines()
    numbers = [next(i for i, line in enumerate(lines, 1) if text in line) for text in ("all_gather", "wait(buf0)", "torch.add")]
    calls: list[str] = []
    x = torch.full((2, 2), 5.0)
    launches = record_launches(WRAPPER, numbers, {}, [x, calls], numbers[:2])
    for launch in launches:
        launch()
    assert calls == []
    result: Tensor = launches[2]()
    assert torch.equal(result, torch.ones(4, 2))


def test_the_lines_of_collectives_and_waits_are_known() -> None:
    with fake_ranks():
        (found,) = capture(EveryKind(), [torch.empty(8, 64)], "h200", SMALL)
        assert found.reading is not None
        exclusive = [kernel.name for kernel in found.reading.kernels.kernels if kernel.exclusive]
        assert exclusive == []
        with as_on_h200(found.reading.module):
            code = CompiledSerialGraph(found.reading)
    lines = code.lowered.source.splitlines()
    calls = [number for number, line in enumerate(lines, 1) if "torch.ops._c10d_functional." in line and "assert" not in line]
    first = next(number for number, line in enumerate(lines, 1) if "def call(" in line)
    assert code.collectives == [number for number in calls if number > first]
    assert len(code.collectives) == 18 and set(code.collectives) < set(code.lines)
