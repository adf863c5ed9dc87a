"""Check over how many captures graphs are timed, and what the host time of a call is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from graphstreams.autotuning import timing
from graphstreams.autotuning.timing import means_over_captures


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
    samples = timing.times_in_turns([calls("a", 2.0), calls("b", 3.0)], 3, 4, timing.host_us)
    assert samples == [pytest.approx([2.0] * 3), pytest.approx([3.0] * 3)]
    assert done == ["idle", *"aaaa", "idle", *"bbbb"] * (3 + timing.DISCARDED)


def test_what_a_graph_does_beside_its_kernels_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [[10.0, 12.0, 11.0], [7.0, 7.0, 9.0]]
    monkeypatch.setattr(timing, "times_in_turns", lambda functions, rounds, repeats: samples)
    graphs: list[Any] = [SimpleNamespace(replay=None, overhead_us=us) for us in (0.0, 1.5)]
    assert timing.medians_in_turns(graphs) == [11.0, 5.5]
