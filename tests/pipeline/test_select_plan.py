"""Check which plan is chosen from measured times, and what becomes of it. Only the autotuner is replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from graphstreams.errors import Unmeasurable
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.pipeline import explain, run, streamed_body
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.policies import search_on_simulator
from graphstreams.verification.wrapper.read import verify
from tests.support.collective_modules import TwoSums, fake_ranks
from tests.support.sample_modules import FREE_EVENTS, module_and_inputs

SERIAL_US = 40.0


class FakeAutotuner:
    """Says that every kernel takes 5 us, and that the simulator's best plan takes `played`, its code `compiled` us."""

    def __init__(self, played: float = 30.0, compiled: float = 30.0) -> None:
        self.played, self.compiled = played, compiled
        self.direct = 0.0, 0.0, 0.0  # us of a call that the host launches: on streams, serially, and until the former returns
        self.on_disk: tuple[list[float], Plan, Measurement] | None = None
        self.failing: dict[str, BaseException] = {}
        self.calls: list[str] = []
        self.written: list[tuple[Sequence[float], Plan, Measurement]] = []
        self.changed: Callable[[Plan], Plan] = lambda plan: plan

    def __call__(self, reading: Any, device: Any, options: Any, values: Any, serial: Any, given: Any = None) -> FakeAutotuner:
        self.kernels, self.options, self.given = reading.kernels.kernels, options, given
        return self

    @property
    def benchmark(self) -> FakeAutotuner:
        return self

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise self.failing[name]

    def load_cached(self) -> tuple[list[float], Plan, Measurement] | None:
        self._called("load_cached")
        return self.on_disk

    def times(self) -> list[float]:
        self._called("times")
        return [5.0] * len(self.kernels)

    def blocks(self) -> dict[int, list[tuple[int, int]]]:
        self._called("blocks")
        return {kernel.id: [(8, 132)] for kernel in self.kernels}

    def search(self, space: SearchSpace, first: Sequence[Plan], beat_us: float | None = None) -> tuple[Plan, Measurement]:
        self._called("search")
        # For measured and for modelled times and, unless one is given, with a priority.
        several = 3 if self.options.priority is None else 2
        assert [len(plan.placements) for plan in first] == [len(self.kernels)] * several
        return self.changed(search_on_simulator(space)), Measurement(SERIAL_US, self.played, tried=32)

    def fastest(self, first: Sequence[Plan]) -> tuple[Plan, Measurement]:
        self._called("fastest")
        assert [len(plan.placements) for plan in first] == [len(self.kernels)] * 3
        return first[0], Measurement(SERIAL_US, self.played, tried=2)

    def time_generated_code(self, source: str, serial: Any, measurement: Measurement) -> Measurement:
        self._called("time_generated_code")
        assert verify(source) == []  # what is run is the code that is proved
        assert "if _runs_on_streams(args, True):" in source  # and every call of it runs on streams
        assert verify(serial.source) == [] and "_runs_on_streams" not in serial.source
        own, serial, host = self.direct
        return replace(measurement, compiled_us=self.compiled, direct_us=own, direct_serial_us=serial, direct_host_us=host)

    def save(self, us: Sequence[float], plan: Plan, measurement: Measurement) -> None:
        self._called("save")
        self.written.append((us, plan, measurement))

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., GraphCompilation]:
    """Plans a sample as a GPU with this autotuner would."""

    def plan(autotuner: FakeAutotuner, sample: Any = "three_arms", inputs: Any = (), **options: Any) -> GraphCompilation:
        monkeypatch.setattr(run, "Autotuner", autotuner)
        monkeypatch.setattr(explain, "run_stages", functools.partial(run.run_stages, inputs=inputs))
        called = module_and_inputs(sample) if isinstance(sample, str) else sample
        (outcome,) = capture(*called, "h200", {**FREE_EVENTS, "min_gain": 0.02, **options})
        return outcome

    return plan


Measured = Callable[..., GraphCompilation]


def test_times_plan_and_measurement_are_the_autotuners(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    outcome = measured(autotuner)
    report = outcome.report
    assert (report.verdict, report.reason, report.costs, report.us) == ("clean", "", "measured", (5.0, 5.0, 5.0))
    assert report.measurement == Measurement(SERIAL_US, 30.0, 30.0, tried=32)
    assert report.notes == ()
    assert outcome.module is not None
    assert autotuner.calls == ["load_cached", "times", "blocks", "search", "time_generated_code", "save", "close"]
    assert autotuner.written == [(report.us, report.plan, report.measurement)]
    assert set(report.seconds) >= {"price", "plan", "measure"}


def test_plans_with_collectives_are_measured_and_kept_and_their_code_is_not_run(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    with fake_ranks():
        report = measured(autotuner, (TwoSums(), [torch.empty(8, 64)]), priority=0).report
    assert (report.verdict, report.reason, report.costs) == ("clean", "", "measured, but for collectives")
    assert autotuner.calls == ["load_cached", "times", "blocks", "search", "save", "close"]
    assert report.measurement == Measurement(SERIAL_US, 30.0, tried=32) == autotuner.written[0][2]
    assert not report.direct and any("a pause of modelled time in place of each" in note for note in report.notes)
    assert "30.0 us instead of 40.0 in a CUDA graph (measured, but for collectives)" in str(report.as_verdict())


def test_a_measured_plan_with_collectives_that_gains_too_little_stays_serial(measured: Measured) -> None:
    with fake_ranks():
        report = measured(FakeAutotuner(played=39.5), (TwoSums(), [torch.empty(8, 64)]), priority=0).report
    assert report.verdict == "serial" and "the plan's measured gain is 1.2%" in report.reason, report.reason


def test_an_interrupt_while_it_measures_closes_it(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    autotuner.failing["search"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        measured(autotuner)
    assert autotuner.calls == ["load_cached", "times", "blocks", "search", "close"]


def test_without_a_search_two_plans_are_measured(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    assert measured(autotuner, search=0).report.measurement == Measurement(SERIAL_US, 30.0, 30.0, tried=2)
    assert "search" not in autotuner.calls


@pytest.mark.parametrize("options", [{"costs": "roofline"}, {"inputs": None}])
def test_nothing_is_measured_where_that_is_not_wanted_or_there_are_no_inputs(measured: Measured, options: Any) -> None:
    autotuner = FakeAutotuner()
    report = measured(autotuner, **options).report
    assert autotuner.calls == []
    assert (report.verdict, report.measurement, report.notes) == ("clean", None, ())
    assert report.costs.startswith("roofline")


@pytest.mark.parametrize(
    ("stage", "error", "note"),
    [
        ("times", Unmeasurable("its buffers take 9 MiB"), "kernels were not measured: its buffers take 9 MiB"),
        ("load_cached", RuntimeError("planted"), "kernels were not measured: RuntimeError: planted"),
        ("times", RuntimeError("planted"), "kernels were not measured: RuntimeError: planted"),
        ("blocks", RuntimeError("planted"), "kernels were not measured: RuntimeError: planted"),
        ("search", RuntimeError("planted"), "kernels were not measured: RuntimeError: planted"),
    ],
)
def test_where_measuring_fails_the_roofline_prices_and_a_note_says_why(
    measured: Measured, stage: str, error: Exception, note: str
) -> None:
    autotuner = FakeAutotuner()
    autotuner.failing[stage] = error
    outcome, expected = measured(autotuner), measured(FakeAutotuner(), costs="roofline").report
    report = outcome.report
    assert (report.verdict, report.notes) == ("clean", (note,))
    assert (report.us, report.costs, report.plan) == (expected.us, expected.costs, replace(expected.plan, name=report.name))
    assert report.measurement is None
    assert outcome.module is not None
    assert autotuner.calls[-1] == "close"
    assert "time_generated_code" not in autotuner.calls and "save" not in autotuner.calls
    assert note in str(report)


def test_a_measured_plan_that_is_unsound_is_not_used(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    autotuner.changed = lambda plan: replace(plan, events=plan.events[1:])
    report = measured(autotuner).report
    assert (report.verdict, report.costs.split(",")[0]) == ("clean", "roofline")
    assert "is not forked" in report.notes[0]


def test_nor_is_what_was_measured_of_it(measured: Measured) -> None:
    """The gain of the plan that takes its place is then judged by that measurement."""
    autotuner = FakeAutotuner(played=SERIAL_US)  # no gain, so that the good plan is dropped for what the bad one took
    autotuner.changed = lambda plan: replace(plan, events=plan.events[1:])
    report = measured(autotuner).report
    assert (report.verdict, report.measurement) == ("clean", None)


@pytest.mark.parametrize(("played", "verdict"), [(39.3, "serial"), (39.1, "clean")])
def test_a_plan_has_to_gain_when_it_is_replayed(measured: Measured, played: float, verdict: str) -> None:
    autotuner = FakeAutotuner(played, compiled=30.0)
    report = measured(autotuner).report
    assert report.verdict == verdict
    assert autotuner.calls[-1] == "close"
    if verdict == "serial":
        assert report.stage == "plan"
        assert report.reason.startswith(
            "the plan's measured gain is 1.8%, less than min_gain=2.0%: its longest path of kernels takes "
        )
        assert "time_generated_code" not in autotuner.calls  # nor is any code generated for it


@pytest.mark.parametrize(("compiled", "verdict"), [(39.4, "serial"), (39.1, "clean")])
def test_and_its_code_has_to_gain(measured: Measured, compiled: float, verdict: str) -> None:
    autotuner = FakeAutotuner(30.0, compiled)
    outcome = measured(autotuner)
    report = outcome.report
    assert report.verdict == verdict
    assert report.measurement == Measurement(SERIAL_US, 30.0, compiled, tried=32)
    assert autotuner.written[0][2] == report.measurement  # so that the next compile need not find out again
    assert (outcome.module is None) == (verdict == "serial")
    if verdict == "serial":
        assert report.stage == "measure"
        said, _, held = report.reason.partition(": ")
        assert said == "the generated code's measured gain is 1.5%, less than min_gain=2.0%"
        assert held.startswith("its longest path of kernels takes ")


def test_what_is_measured_decides_and_not_what_is_predicted(measured: Measured) -> None:
    """The simulator hides one arm behind another; measured, none hides any."""
    report = measured(FakeAutotuner(SERIAL_US, SERIAL_US)).report
    assert report.plan is not None and report.plan.streamed_us < 0.9 * report.plan.serial_us
    assert report.verdict == "serial"


@pytest.mark.parametrize(
    ("us", "direct"),
    [
        ((0.0, 0.0, 0.0), False),
        ((970.0, 1000.0, 500.0), True),
        ((990.0, 1000.0, 500.0), False),
        ((1500.0, 1000.0, 500.0), False),
        ((970.0, 1000.0, 671.0), False),
        ((1500.0, 3000.0, 1400.0), False),
    ],
)
def test_streams_run_outside_cuda_graphs_only_where_they_were_measured_to_gain_there(
    measured: Measured, us: tuple[float, float, float], direct: bool
) -> None:
    """By 3 %, for 1 % may be noise, and where a call does not wait for the host: on streams, serially, and on the host."""
    autotuner = FakeAutotuner()
    autotuner.direct = us
    report = measured(autotuner).report
    assert (report.verdict, report.direct) == ("clean", direct)
    assert f"if _runs_on_streams(args, {direct}):" in report.wrapper
    assert verify(report.wrapper) == []


def test_what_was_measured_of_direct_calls_counts_for_its_own_size_only() -> None:
    measurement = Measurement(1000.0, 800.0, 800.0, 1000.0, direct_us=800.0, direct_serial_us=1000.0, direct_host_us=400.0)
    for example, direct in ((None, True), (16, False)):  # of the tokens, where each call chooses them
        assert run.gains_directly(measurement, example) == direct


@pytest.mark.parametrize(
    ("direct_us", "direct_serial_us", "direct_host_us", "direct"),
    [
        (481.4, 542.7, 480.0, False),  # of a V3.2 layer with 16 tokens, whose serial calls were 13 % faster when timed again
        (1211.7, 1289.9, 1150.0, False),  # the host is just ahead, but whole calls have more beside the graph's code
        (1211.7, 1289.9, 911.7, True),  # and here they have no more than is reckoned with
        (1211.7, 1289.9, 911.8, False),
        (977.2, 1028.2, 0.0, False),  # not measured
    ],
)
def test_a_gain_measured_of_calls_that_may_wait_for_the_host_is_none(
    direct_us: float, direct_serial_us: float, direct_host_us: float, direct: bool
) -> None:
    measurement = Measurement(1193.0, 1147.0, 1160.0, 1201.0, direct_us, direct_serial_us, direct_host_us)
    assert run.gains_directly(measurement, None) == direct


@pytest.mark.parametrize(("compiled", "notes"), [(30.8, 0), (31.0, 1), (29.0, 0)])
def test_a_note_says_if_the_generated_code_is_slower_than_its_kernels_as_replayed(
    measured: Measured, compiled: float, notes: int
) -> None:
    report = measured(FakeAutotuner(30.0, compiled)).report
    assert report.verdict == "clean"
    assert len(report.notes) == notes
    assert all(note == "the generated code took 31.0 us, its kernels as played 30.0 us" for note in report.notes)


def test_a_plan_from_disk_is_used_without_a_measurement(measured: Measured) -> None:
    first = measured(FakeAutotuner()).report
    assert first.plan is not None and first.measurement is not None
    autotuner = FakeAutotuner()
    autotuner.on_disk = (list(first.us), first.plan, replace(first.measurement, from_disk=True))
    outcome = measured(autotuner)
    assert autotuner.calls == ["load_cached", "close"]
    report = outcome.report
    assert (report.verdict, report.costs, report.us, report.plan) == ("clean", "measured", first.us, first.plan)
    assert report.measurement is not None and report.measurement.from_disk
    assert report.wrapper.replace(report.name, first.name) == first.wrapper
    assert outcome.module is not None


def test_a_plan_from_disk_whose_code_did_not_gain_stays_serial(measured: Measured) -> None:
    first = measured(FakeAutotuner(30.0, 39.9)).report
    assert first.plan is not None and first.measurement is not None
    autotuner = FakeAutotuner()
    autotuner.on_disk = (list(first.us), first.plan, replace(first.measurement, from_disk=True))
    report = measured(autotuner).report
    assert (report.verdict, report.reason) == (first.verdict, first.reason) == ("serial", first.reason)
    assert autotuner.calls == ["load_cached", "close"]


def test_a_plan_from_disk_whose_code_was_never_timed_has_it_timed_where_less_is_asked(measured: Measured) -> None:
    """It gained 1.8 % as played, so that the compile before, which asked for 2 %, generated no code for it."""
    before = FakeAutotuner(39.3)
    assert measured(before).report.verdict == "serial"
    ((us, plan, measurement),) = before.written
    autotuner = FakeAutotuner(compiled=39.0)
    autotuner.on_disk = (list(us), plan, replace(measurement, from_disk=True))
    report = measured(autotuner, min_gain=0.01).report
    assert autotuner.calls == ["load_cached", "time_generated_code", "save", "close"]
    assert report.verdict == "clean" and report.measurement is not None and report.measurement.compiled_us == 39.0


def test_if_no_autotuner_can_be_made_the_roofline_prices_and_a_note_says_why(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    autotuner = FakeAutotuner()
    monkeypatch.setattr(FakeAutotuner, "__call__", lambda *_: 1 // 0)
    report = measured(autotuner).report
    assert report.costs.startswith("roofline")
    assert any("kernels were not measured: ZeroDivisionError" in note for note in report.notes)
    assert autotuner.calls == []


def test_code_that_is_not_proved_is_not_run(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_body, "find_races", lambda trace: ["a race"])
    autotuner = FakeAutotuner()
    report = measured(autotuner).report
    assert (report.verdict, report.stage) == ("refused", "verify")
    assert "time_generated_code" not in autotuner.calls
    assert autotuner.calls[-1] == "close"


def test_where_the_generated_code_cannot_be_timed_the_graph_stays_serial(measured: Measured) -> None:
    autotuner = FakeAutotuner()
    autotuner.failing["time_generated_code"] = RuntimeError("planted")
    outcome = measured(autotuner)
    assert (outcome.report.verdict, outcome.report.stage) == ("refused", "measure")
    assert "RuntimeError: planted" in outcome.report.reason
    assert outcome.module is None
    assert autotuner.written == []
    assert autotuner.calls[-1] == "close"
