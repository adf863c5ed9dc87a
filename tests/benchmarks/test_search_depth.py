"""Check what a search finds with more plans. The GPU's times are synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import search_depth

from graphstreams.autotuning.measured_search import SCREENED
from graphstreams.autotuning.occupancy import Occupancy
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.options import Options

FIVE = KernelGraph("g", tuple(Kernel(i, f"k{i}", "gemm", launches=("mm",)) for i in range(5)), ())
SERIAL = "serial"


class FakeReplayer:
    """Kernel i takes i + 1 us."""

    def capture_serial(self, order: Sequence[int]) -> Any:
        assert list(order) == [0, 1, 2, 3, 4]
        return SERIAL

    def capture_plan(self, plan: Plan) -> Any:
        return plan

    def kernel_times(self, order: Sequence[int]) -> dict[int, float]:
        return {kernel: kernel + 1.0 for kernel in order}

    def blocks(self, kernel: int) -> list[Occupancy]:
        return [Occupancy(10, 132)]


@pytest.mark.parametrize("screened", [False, True])
def test_the_best_plan_of_a_search_counts_as_it_is_timed_again(screened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the search a plan takes what the simulator says; timed again the serial graph takes 20 us and each plan 8 or more."""
    finals: list[list[Any]] = []
    compared: set[int] = set()

    def medians(graphs: list[Any], *_: int) -> list[float]:
        compared.add(len(graphs) if SERIAL not in graphs else 1)
        return [15.0 if graph == SERIAL else graph.streamed_us for graph in graphs]

    def means(captured: Sequence[Any], *_: int) -> list[float]:
        graphs = [capture() for capture in captured]
        finals.append(graphs)
        return [20.0, *(8.0 + place for place in range(len(graphs) - 1))]

    monkeypatch.setattr(search_depth, "device_at_hand", lambda: DEVICES["h200"])
    monkeypatch.setattr(search_depth, "medians_in_turns", medians)
    monkeypatch.setattr(search_depth, "means_over_captures", means)
    serial_graph: Any = SimpleNamespace(graph=FIVE, order=[0, 1, 2, 3, 4], replayer=FakeReplayer())
    searches = search_depth.Searches.of(serial_graph, Options())
    assert searches.space.us == [1.0, 2.0, 3.0, 4.0, 5.0]
    gain, seconds = searches.run(screened, 12, 0)
    assert (gain, seconds > 0) == (2.5, True)
    ((serial, *best),) = finals
    assert serial == SERIAL and len(best) == search_depth.TOP_CANDIDATES
    times = [plan.streamed_us for plan in best]
    assert times == sorted(times) and times[0] < 7  # 15 us of kernels, the longest 5
    assert (SCREENED in compared) == screened


def test_a_line_has_mean_and_range_over_seeds_and_all_numbers_have_their_turn_for_each() -> None:
    asked: list[tuple[bool, int, int]] = []

    def run(screened: bool, plans: int, seed: int) -> tuple[float, float]:
        asked.append((screened, plans, seed))
        return 1.0 + plans / 100 + seed / 10 + screened, plans * 0.02

    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in search_depth.table(run, [10, 20], 3).splitlines()
    ]
    assert asked == [(screened, plans, seed) for seed in range(3) for plans in (10, 20) for screened in (False, True)]
    assert lines[2:] == [
        ["10", "no", "1.200x", "1.100x", "1.300x", "0.20"],
        ["10", "yes", "2.200x", "2.100x", "2.300x", "0.20"],
        ["20", "no", "1.300x", "1.200x", "1.400x", "0.40"],
        ["20", "yes", "2.300x", "2.200x", "2.400x", "0.40"],
    ]


@pytest.mark.parametrize("given", [["--plans", "0"], ["--seeds", "0"], ["--batch", "0"]])
def test_numbers_have_to_be_one_or_more(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search_depth.main(["examples/deepseek_v32.py:bench", *given])
    assert "have to be 1 or more" in capsys.readouterr().err
