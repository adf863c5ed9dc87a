"""What a plan costs the host: the fit, and the plans that are compiled for it. Times are made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphstreams.graph.kernels import Kernel, KernelGraph
from graphstreams.planning.events import check_plan
from graphstreams.planning.host_cost import synchronisations
from graphstreams.planning.search import Space

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import host_cost
from host_cost import Sample

SIX = KernelGraph("g", tuple(Kernel(i, f"k{i}", "gemm", launches=("mm",)) for i in range(6)), ())
COUNTS = [(10, 4), (19, 7), (24, 10), (13, 9)]


def test_the_fit_finds_the_times_that_made_the_samples() -> None:
    assert host_cost.fit([Sample(a, b, 1.75 * a + 1.25 * b, 0.0) for a, b in COUNTS]) == pytest.approx((1.75, 1.25))


def test_the_fit_has_the_least_squares() -> None:
    """Of errors that neither of the two explains it takes no notice."""
    samples = [Sample(1, 0, 3.0, 0.0), Sample(1, 0, 1.0, 0.0), Sample(0, 1, 5.0, 0.0)]
    assert host_cost.fit(samples) == pytest.approx((2.0, 5.0))


def test_plans_that_do_not_differ_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="do not differ"):
        host_cost.fit([Sample(10, 5, 20.0, 0.0), Sample(20, 10, 41.0, 0.0)])


def test_plans_are_different_ones_on_several_streams() -> None:
    plans = host_cost.different_plans(Space(SIX, [float(i + 1) for i in range(6)], 4, 0.0), 8)
    for plan in plans:
        check_plan(SIX, plan)
    assert all(plan.streams > 1 for plan in plans)
    assert len({synchronisations(plan) for plan in plans}) > 2
    assert plans == host_cost.different_plans(Space(SIX, [float(i + 1) for i in range(6)], 4, 0.0), 8)


def test_a_line_has_the_share_of_serials_host_time_beside_the_predicted_one() -> None:
    table = host_cost.table(340.0, [Sample(10, 4, 17.0, 0.0615), Sample(19, 7, 40.8, 0.118)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[2:] == [["10", "4", "5.0%", "6.2%"], ["19", "7", "12.0%", "11.8%"]]


@pytest.mark.parametrize("given", [["--plans", "1"], ["--batch", "0"]])
def test_numbers_out_of_range_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        host_cost.main(["examples/deepseek_v32.py:bench", *given])
    assert "1 or more" in capsys.readouterr().err
