"""Check on a GPU that a pause runs beside the stream that starts it, until a wait, directly and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CudaGraph
from graphstreams.autotuning.stand_ins import Pause
from graphstreams.runtime.driver import new_stream

pytestmark = pytest.mark.gpu
LONG_US = 200_000.0  # far longer than the host takes to look


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record()
    return event


def test_a_pause_holds_up_nothing_but_what_waits_for_it() -> None:
    other = torch.cuda.Event()
    stream = new_stream(torch.device("cuda", torch.cuda.current_device()))
    pause = Pause(stream, LONG_US)
    torch.cuda.synchronize()
    pause.start()
    other.record(stream)
    _event().synchronize()
    assert not other.query()
    pause.wait()
    _event().synchronize()
    assert other.query()


def test_pauses_are_parts_of_a_cuda_graph() -> None:
    pause = Pause(new_stream(torch.device("cuda", torch.cuda.current_device())), LONG_US)
    beside, behind = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")

    def enqueue() -> None:
        pause.start()
        beside.add_(1)
        pause.wait()
        behind.add_(1)

    capturing = torch.cuda.Stream()
    graph = CudaGraph(enqueue, capturing)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    assert beside.tolist() == behind.tolist() == [1.0] * 4
    assert start.elapsed_time(end) * 1000 > LONG_US / 2  # the clock may be twice as fast as when the pause was measured
