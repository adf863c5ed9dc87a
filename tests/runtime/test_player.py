"""What a captured graph launches stays loaded for as long as the graph can be replayed; CUDA is stood in for."""

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
from graphstreams.autotuning import timing
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.timing import means_over_captures


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
    """The function of a module that nothing else refers to, as that of generated code is."""
    namespace: dict[str, Any] = {}
    exec("def call():\n    return call", namespace)
    function: Callable[[], Any] = namespace["call"]
    return function


@pytest.mark.usefixtures("without_a_gpu")
def test_the_code_that_a_graph_was_captured_from_lives_as_long_as_the_graph() -> None:
    """Generated code holds its kernels, which are unloaded with it: one process ended in a later replay."""
    call = generated()
    alive = weakref.ref(call)
    graph = KernelReplayer([]).call(call)
    del call
    gc.collect()
    assert alive() is not None
    graph.replay()
    assert graph.captured.calls == ["begin", "end", "replay"]  # type: ignore[attr-defined]
    del graph
    gc.collect()
    assert alive() is None


@pytest.mark.usefixtures("without_a_gpu")
def test_the_launches_that_are_played_live_as_long_as_a_graph_of_them() -> None:
    launch = generated()
    alive = weakref.ref(launch)
    graph = KernelReplayer([[launch]]).serial([0])
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
    player, enabled = KernelReplayer([]), list[bool]()

    def fails() -> None:
        raise KeyError

    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        player.call(lambda: enabled.append(gc.isenabled()))
        assert enabled == [collects, collects, False]  # two calls ahead of the capture
        assert gc.isenabled() == collects
        with pytest.raises(KeyError):
            player._captured(fails)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize(("captures", "enough", "made"), [(3, False, 3), (3, True, 1), (1, False, 1)])
def test_graphs_are_timed_over_a_few_captures_until_it_is_enough(
    monkeypatch: pytest.MonkeyPatch, captures: int, enough: bool, made: int
) -> None:
    """The first graph takes 10, 20, 30 us in its captures, the second one 1 us more, all measured beside each other."""
    counts = [0, 0]

    def capture(number: int) -> Any:
        counts[number] += 1
        return 10.0 * counts[number] + number

    def medians(graphs: list[Any], rounds: int, repeats: int) -> list[float]:
        assert (rounds, repeats) == (5, 7)
        return graphs

    monkeypatch.setattr(timing, "medians_in_turns", medians)
    found = means_over_captures([lambda: capture(0), lambda: capture(1)], 5, 7, captures, lambda: enough)
    assert counts == [made, made]
    assert found == [5.0 * (made + 1), 5.0 * (made + 1) + 1]


def test_host_times_are_those_until_a_call_returns_with_an_idle_gpu_before_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the first function takes 2 us, one of the second 3 us; the first two of five rounds do not count."""
    now, done = [0.0], []

    def calls(name: str, us: float) -> Any:
        def function() -> None:
            done.append(name)
            now[0] += us * 1e-6

        return function

    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: done.append("idle"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    samples = timing.host_times_in_turns([calls("a", 2.0), calls("b", 3.0)], 3, 4)
    assert samples == [pytest.approx([2.0] * 3), pytest.approx([3.0] * 3)]
    assert done == ["idle", *"aaaa", "idle", *"bbbb"] * (3 + timing.DISCARDED)
