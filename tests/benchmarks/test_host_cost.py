"""What a plan costs the host: the fit, and the plans that are compiled for it. Times are made up."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sample_modules import as_on_h200, reading_of

from graphstreams.costs.devices import DEVICES
from graphstreams.graph.kernels import Kernel, KernelGraph
from graphstreams.measuring import Unmeasurable
from graphstreams.planning.events import check_plan
from graphstreams.planning.host_cost import CONTEXT, EVENT, launches_of, synchronisations
from graphstreams.planning.space import Space

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


TWO = (Sample(10, 4, 17.04, 22.1), Sample(19, 7, 40.8, 40.82))


def test_a_line_has_what_is_added_beside_what_is_predicted() -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in host_cost.table(TWO).splitlines()]
    assert lines[2:] == [["10", "4", "17.0", "22.1"], ["19", "7", "40.8", "40.8"]]


def test_what_is_told_of_a_graph_has_the_fit_or_why_there_is_none() -> None:
    text = host_cost.told(host_cost.HostTimes(350.0, 340.0, TWO), 26)
    assert "one stream 340.0 us, 13.1 us a launch; Inductor's serial code 350.0 us" in text
    event, context = host_cost.fit(TWO)
    assert text.endswith(f"a context {context:.2f} us, {context * 26 / 340:.2f} launches") and f"wait {event:.2f} us" in text
    assert host_cost.told(host_cost.HostTimes(1.0, 1.0, ()), 2).endswith(
        "no fit: the plans do not differ in events and contexts"
    )


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_each_plan_is_generated_and_compared_with_that_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call i takes 100 + i us; nothing runs."""
    sources: list[str] = []

    def loaded(lowered: Any) -> Any:
        sources.append(lowered.source[lowered.source.index("def call(") :])
        return lambda arguments: None

    monkeypatch.setattr(host_cost, "load_call", loaded)
    monkeypatch.setattr(host_cost, "SerialCode", lambda reading: SimpleNamespace(arguments=lambda values: []))
    monkeypatch.setattr(host_cost, "device_at_hand", lambda: DEVICES["h200"])
    monkeypatch.setattr(host_cost, "host_times_in_turns", lambda calls, *_: [[100.0 + i] for i, _ in enumerate(calls)])
    reading = reading_of("norms")
    with as_on_h200(reading.module):
        times = host_cost.measured(reading, {}, 8)
    assert (times.inductor_us, times.serial_us) == (100.0, 101.0)
    assert [sample.us for sample in times.samples] == [1.0 + i for i in range(len(times.samples))]
    launch = 101.0 / launches_of(reading.kernels)
    for sample in times.samples:
        assert sample.predicted_us == pytest.approx((EVENT * sample.operations + CONTEXT * sample.contexts) * launch)
    counts = [
        (len(re.findall(r"event\d+\.(?:record|wait)\(", source)), len(re.findall(r"with stream\d+:", source)))
        for source in sources
    ]
    assert counts == [(0, 0), (0, 0), *((sample.operations, sample.contexts) for sample in times.samples)]
    assert len(set(counts)) > 2


@pytest.mark.filterwarnings("ignore")
def test_a_graph_whose_code_has_a_race_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cost, "find_races", lambda trace: ["first", "second"])
    reading = reading_of("norms")
    with as_on_h200(reading.module), pytest.raises(Unmeasurable, match="the code has a race: first"):
        host_cost.call_of(reading.module, [], nullcontext())


@pytest.mark.parametrize("given", [["--plans", "1"], ["--batch", "0"]])
def test_numbers_out_of_range_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        host_cost.main(["examples/deepseek_v32.py:bench", *given])
    assert "1 or more" in capsys.readouterr().err
