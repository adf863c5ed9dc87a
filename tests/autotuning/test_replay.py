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
