"""Check that what a captured graph launches stays loaded while the graph can be replayed. CUDA is replaced."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphstreams.autotuning import replay as module
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.errors import Unmeasurable


class CapturedGraph:
    """Does nothing when it is replayed."""

    def __init__(self, keep_graph: bool) -> None:
        self.keep_graph, self.calls = keep_graph, list[str]()

    def capture_begin(self, **_: Any) -> None:
        self.calls.append("begin")

    def capture_end(self) -> None:
        self.calls.append("end")

    def replay(self) -> None:
        self.calls.append("replay")


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(cuda_stream=1, wait_stream=lambda other: None)
    for name, value in {
        "current_device": 0,
        "current_stream": stream,
        "graph_pool_handle": (0, 0),
        "synchronize": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CapturedGraph)
    monkeypatch.setattr(torch, "zeros", lambda size, device: torch.empty(size))
    monkeypatch.setattr(module, "capture_stream", lambda device: stream)


@pytest.mark.usefixtures("without_a_gpu")
def test_a_counter_is_put_back_before_the_kernels_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is replayed, the kernels find the value that a call has: 3 here, of a table with 4 places."""
    table, counter, kept = torch.arange(4.0), torch.tensor(3), torch.tensor(3)
    found: list[float] = []

    def count() -> None:
        found.append(float(table[int(counter)]))  # raises IndexError if the counter was not put back
        counter.add_(1)

    monkeypatch.setattr(module, "medians_in_turns", lambda graphs: [1.0, 1.0 + 20 * 0.25, 9.0])
    monkeypatch.setattr(module, "times_in_turns", lambda calls, *_: [[call() or 1.0 for _ in range(3)] for call in calls])
    replayer = KernelReplayer([[count]], lambda: counter.copy_(kept))
    graphs = [replayer.capture_serial([0]), replayer.capture_call(count)]
    for graph in graphs:
        assert graph.overhead_us == pytest.approx(0.25)
        for _ in range(5):
            graph.function()
    replayer.direct_times([count], 3, 1)
    assert len(found) > 13 and set(found) == {3.0}


@pytest.mark.usefixtures("without_a_gpu")
@pytest.mark.parametrize(("whole", "measurable"), [(100.0, True), (99.0, False)])  # us with 50 us of copying in it
def test_a_graph_whose_inputs_take_longer_to_put_back_than_its_kernels_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, whole: float, measurable: bool
) -> None:
    monkeypatch.setattr(module, "medians_in_turns", lambda graphs: [50.0, 50.0 + 20 * 50.0, whole])
    if measurable:
        assert KernelReplayer([[list]], list).capture_serial([0]).overhead_us == 50.0
        return
    with pytest.raises(Unmeasurable, match=r"takes 50\.0 us, more than its kernels"):
        KernelReplayer([[list]], list)


@pytest.mark.usefixtures("without_a_gpu")
def test_without_such_inputs_nothing_is_put_back() -> None:
    assert KernelReplayer([[list]]).capture_serial([0]).overhead_us == 0.0


def generated() -> Callable[[], Any]:
    """Return the function of a module that nothing else refers to, as that of generated code is."""
    namespace: dict[str, Any] = {}
    exec("def call():\n    return call", namespace)
    function: Callable[[], Any] = namespace["call"]
    return function


@pytest.mark.usefixtures("without_a_gpu")
def test_the_code_that_a_graph_was_captured_from_lives_as_long_as_the_graph() -> None:
    """Generated code holds its kernels, which are unloaded with it: one process ended in a later replay."""
    call = generated()
    alive = weakref.ref(call)
    graph = KernelReplayer([]).capture_call(call)
    del call
    gc.collect()
    assert alive() is not None
    graph.replay()
    assert graph.graph.calls == ["begin", "end", "replay"]  # type: ignore[attr-defined]
    del graph
    gc.collect()
    assert alive() is None


@pytest.mark.usefixtures("without_a_gpu")
def test_the_launches_that_are_replayed_live_as_long_as_a_graph_of_them() -> None:
    launch = generated()
    alive = weakref.ref(launch)
    graph = KernelReplayer([[launch]]).capture_serial([0])
    del launch
    gc.collect()
    assert alive() is not None
    del graph
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.usefixtures("without_a_gpu")
def test_no_garbage_is_collected_in_the_middle_of_a_capture(collects: bool) -> None:
    """Generated code takes its kernels along, and CUDA ends a capture during which a kernel is unloaded."""
    replayer, enabled = KernelReplayer([]), list[bool]()

    def fails() -> None:
        raise KeyError

    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        replayer.capture_call(lambda: enabled.append(gc.isenabled()))
        assert enabled == [collects, collects, False]  # two calls ahead of the capture
        assert gc.isenabled() == collects
        with pytest.raises(KeyError):
            replayer._capture(fails)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()
