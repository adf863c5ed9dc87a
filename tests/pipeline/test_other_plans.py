"""Check what is tried after a plan was refused: which plans, what the notes tell, and that what runs is proved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphstreams.inductor import accesses
from graphstreams.inductor.foreach import ForeachScheduler
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline import explain, run, streamed_body
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.other_plans import avoiding, other_plans
from graphstreams.pipeline.select_plan import ModelledPlans, Prices, Task
from graphstreams.pipeline.streamed_body import Proof, prove
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.wrapper.read import verify
from tests.pipeline.test_select_plan import SERIAL_US, FakeAutotuner
from tests.support.autotuner import graph_of, reading_of
from tests.support.sample_modules import FREE_EVENTS, module_and_inputs, plan_by_hand

Attempts = list[Plan]


def streams_of(plan: Plan) -> list[int]:
    stream = plan.stream_of()
    return [stream[kernel] for kernel in range(len(stream))]


def streams_by_name(report: Any) -> dict[str, int]:
    return {place.name: place.stream for place in report.plan.placements}


def is_proved(report: Any) -> bool:
    """Return whether a report says that all is right and an independent proof of its wrapper agrees."""
    return report.verdict == "clean" and report.order_kept and not report.races and verify(report.wrapper) == []


# Which plans: worked out by hand


DIAMOND = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)])


@pytest.mark.parametrize(
    ("streams", "kernels", "expected"),
    [
        ([0, 0, 1, 0], {2}, [0, 0, 0, 0]),  # to 0, on which it depends
        ([1, 0, 2, 0], {2}, [1, 0, 1, 0]),  # to that kernel's stream, though it is not the caller's
        ([0, 1, 2, 1], {3}, [0, 1, 2, 0]),  # of what it depends on one is on 1 and one on 2: to the caller's
        ([0, 1, 2, 1], {0, 1, 3}, [0, 0, 1, 0]),  # 1 follows 0, which stays; then 3 depends on 0 and 2; no gap is left
        ([0, 0, 1, 1], {2, 3}, [0, 0, 0, 0]),
        ([1, 0, 0, 0], {0}, [0, 0, 0, 0]),  # nothing that it could follow: to the caller's
    ],
)
def test_named_kernels_follow_what_they_depend_on(streams: list[int], kernels: set[int], expected: list[int]) -> None:
    plan = plan_by_hand(DIAMOND, range(4), dict(enumerate(streams)))
    found = avoiding(DIAMOND, plan, frozenset(kernels))
    assert (list(found.stream), list(found.order)) == (expected, [0, 1, 2, 3])


def test_a_kernel_that_has_to_be_on_the_callers_stream_stays_there() -> None:
    kernels = (*DIAMOND.kernels[:3], replace(DIAMOND.kernels[3], allocates_output=True))
    graph = replace(DIAMOND, kernels=kernels)
    plan = plan_by_hand(graph, range(4), {0: 0, 1: 1, 2: 1, 3: 0})
    assert list(avoiding(graph, plan, frozenset({1, 3})).stream) == [0, 0, 1, 0]


ARMS = KernelGraph(
    "arms",
    tuple(Kernel(i, f"k{i}", "extern", launches=("op",)) for i in range(8)),
    tuple(Edge(arm, arm + 4, EdgeKind.RAW) for arm in range(4)),
)


def planned(streams: Sequence[int], kernels: set[int], graph: KernelGraph = ARMS, **options: Any) -> list[Plan]:
    task = Task(reading_of(graph), DEVICES["h200"], Options.from_dict({**FREE_EVENTS, **options}))
    plan = plan_by_hand(graph, range(len(graph.kernels)), dict(enumerate(streams)))
    return [plan for _, plan in other_plans(task, [10.0] * len(graph.kernels), plan, frozenset(kernels))]


def test_first_comes_the_plan_that_avoids_what_was_refused_then_half_as_many_streams() -> None:
    first, second = planned([0, 1, 2, 3, 0, 1, 3, 2], {6})
    assert streams_of(first) == [0, 1, 2, 3, 0, 1, 2, 2]
    assert second.streams == 2
    assert (first.serial_us, second.serial_us) == (80.0, 80.0)  # by the times of the kernels, not of the plan by hand


@pytest.mark.parametrize(
    ("streams", "kernels", "used"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 3], set(), [2]),  # nothing is named
        ([0, 1, 2, 0, 0, 1, 2, 0], set(), [2]),  # half of three is two
        ([0, 1, 0, 1, 0, 1, 1, 0], {6}, [2]),  # half of two is one
        ([0, 1, 0, 1, 0, 1, 0, 1], set(), []),
        ([0, 0, 0, 0, 1, 0, 0, 0], {4}, []),  # without it all is on one stream
    ],
)
def test_plans_on_one_stream_are_none(streams: list[int], kernels: set[int], used: list[int]) -> None:
    assert [plan.streams for plan in planned(streams, kernels)] == used


# Real refusals


class Lists(nn.Module):
    """A foreach kernel of the values of two arms, and an arm behind each of its results."""

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        self.before, self.behind = (nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(2)) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        values = torch._foreach_add([layer(x) for layer in self.before], 1)
        return [layer(value) for layer, value in zip(self.behind, values, strict=True)]


def without_stream_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let foreach kernels come out on the caller's stream, as Inductor's own scheduler has it."""
    monkeypatch.setattr(ForeachScheduler, "_follow_parts", lambda self, node: None)


def test_races_are_avoided_by_another_plan(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    without_stream_of_parts(monkeypatch)
    torch.manual_seed(0)
    module, inputs = Lists().bfloat16(), (torch.randn(1, 4096, dtype=torch.bfloat16),)
    (outcome,) = capture(module, inputs, "h200", {"min_gain": 0.0})
    report = outcome.report
    assert is_proved(report), report.reason
    # It was on stream 1, behind `before.1`, with `behind.1`. Now only `before.1`, which has nothing before it, is there.
    assert report.plan is not None and streams_of(report.plan) == [0, 1, 0, 0, 0]
    refused, used = report.notes
    assert refused.startswith("the first plan, 2 streams with a simulated gain of ")
    assert "is not used: the generated wrapper has " in refused and " races, the first: line " in refused
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "the code for the first plan had a race" in warning and "please report it: line " in warning
    assert used.startswith("tried next, 'before.1', '_foreach_add', 'behind.1' moved to the stream of what comes before")
    assert used.endswith("; it passed every check, and is what runs")
    assert report.kernels_streamed == report.kernels_serial
    assert equal_as_captured(module, inputs, [outcome]) == [True]


class Wide(nn.Module):
    """Two chains from one large value, one of which ends in another: both are alive at once only if the first is held."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.up, self.again = nn.Linear(64, 4096, bias=False), nn.Linear(64, 4096, bias=False)
        self.down, self.other, self.last = (nn.Linear(4096, 64, bias=False) for _ in range(3))
        self.first, self.second = (nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(depth)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.up(x)
        y, z = self.down(wide), self.other(wide)
        for one, other in zip(self.first, self.second, strict=True):
            y, z = one(y), other(z)
        return z, self.last(self.again(y))


class Arms(nn.Module):
    """Four arms, each of which makes a large value of 1 MiB three times: each stream holds one."""

    def __init__(self, arms: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.arms = arms
        self.up = nn.ModuleList(nn.Linear(64, 4096, bias=False) for _ in range(arms * depth))
        self.down = nn.ModuleList(nn.Linear(4096, 64, bias=False) for _ in range(arms * depth))

    def forward(self, x: Tensor) -> list[Tensor]:
        values = [x] * self.arms
        for place, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            values[place % self.arms] = down(up(values[place % self.arms]))
        return values


@pytest.fixture
def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a share of the serial peak of buffers alone decide, so that modules may be small."""
    monkeypatch.setattr(streamed_body, "ALLOWED_MEMORY", 0)
    monkeypatch.setattr(accesses, "held_memory", lambda lowered: 0)


@pytest.fixture
def up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a product take 3.5 us on the way up and 5.6 on the way down: what two streams hold at a time depends on it."""

    def price(self: ModelledPlans, task: Task) -> Prices:
        times = (3.5 if kernel.name.startswith("up") else 5.6 for kernel in task.reading.kernels.kernels)
        return Prices(tuple(times), "by name")

    monkeypatch.setattr(ModelledPlans, "price", price)


def with_memory(module: nn.Module, share: float, **options: Any) -> GraphCompilation:
    inputs = (torch.randn(64, 64),)
    (outcome,) = capture(module, inputs, "h200", {**FREE_EVENTS, "max_extra_memory": share, **options})
    return outcome


@pytest.mark.usefixtures("no_floor")
def test_a_value_that_another_stream_holds_is_read_on_its_own_stream() -> None:
    module, options = Wide(), {"event_us": 0.5, "streams": 2}
    free, bound = with_memory(module, 10.0, **options).report, with_memory(module, 0.5, **options)
    assert free.notes == () and free.memory_streamed > 1.9 * free.memory_serial
    report = bound.report
    assert is_proved(report), report.reason
    assert report.memory_streamed < 1.1 * report.memory_serial
    assert streams_by_name(free) | {"other": 0} == streams_by_name(report)
    assert set(streams_by_name(report).values()) == {0, 1}
    refused, used = report.notes
    why = "other streams hold 1.0 MiB of 'up' for 'other'"
    assert refused.endswith(f"is not used: it needs 1 MiB more than serial, because {why}; 1 MiB are allowed")
    assert used.startswith("tried next, 'other' moved to the stream of what comes before, or to the caller's: 2 streams")
    assert equal_as_captured(module, (torch.randn(64, 64),), [bound]) == [True]


@pytest.mark.usefixtures("no_floor", "up_and_down")
def test_half_as_many_streams_need_less_memory() -> None:
    """No arm reads what another has made, so that no kernel is named."""
    report = with_memory(Arms(), 2.5, streams=4).report
    assert is_proved(report), report.reason
    assert report.plan is not None and report.plan.streams == 2
    assert report.memory_streamed <= 3.5 * report.memory_serial
    refused, used = report.notes
    assert refused.startswith("the first plan, 4 streams with a simulated gain of ")
    assert refused.endswith("; 3 MiB are allowed")
    assert used.startswith("tried next, half as many streams: 2 streams with a simulated gain of ")


@pytest.mark.usefixtures("no_floor", "up_and_down")
def test_if_none_is_left_the_first_refusal_is_the_reports() -> None:
    report = with_memory(Arms(), 0.5, streams=4).report
    assert (report.verdict, report.stage) == ("serial", "verify")
    assert report.reason == "it needs 3 MiB more than serial, because more is alive at once; 1 MiB are allowed"
    assert report.plan is not None and report.plan.streams == 4
    refused, tried, end = report.notes
    assert refused.endswith(report.reason)
    assert tried.startswith("tried next, half as many streams: 2 streams") and "; it is not used: it needs 2 MiB more" in tried
    assert end == "no other plan is left, so the graph runs serially"


# Refusals that are planted


class Refusing:
    """A proof that refuses the first few plans, for one kernel, and is the real one behind them."""

    def __init__(self, count: int, kernel: int, out_of_order: bool = False) -> None:
        self.count, self.kernel, self.out_of_order = count, kernel, out_of_order
        self.plans: Attempts = []

    def __call__(self, source: str, streamed: Lowered, reading: Reading, plan: Plan) -> Proof:
        if plan not in self.plans:
            self.plans.append(plan)
        proof = prove(source, streamed, reading, plan)
        assert proof == Proof(lines=proof.lines)  # it finds nothing
        if self.plans.index(plan) >= self.count:
            return proof
        kernels = frozenset({self.kernel})
        return Proof(out_of_order="planted", kernels=kernels) if self.out_of_order else Proof(("planted",), kernels=kernels)


def refused(monkeypatch: pytest.MonkeyPatch, proof: Refusing) -> GraphCompilation:
    monkeypatch.setattr(run, "prove", proof)
    (outcome,) = capture(Arms(), (torch.randn(64, 64),), "h200", {**FREE_EVENTS, "streams": 4})
    return outcome


LAST = 22  # the last kernel but one, a `down`: of an arm of its own, on an aux stream or the caller's


@pytest.mark.parametrize("count", [0, 1, 2])
def test_plans_are_tried_until_one_is_proved(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    proof = Refusing(count, kernel=LAST)
    report = refused(monkeypatch, proof).report
    assert is_proved(report), report.reason
    assert len(proof.plans) == count + 1
    assert report.plan == proof.plans[-1]
    assert len(report.notes) == (count + 1 if count else 0)
    assert [plan.streams for plan in proof.plans] == [4, 4, 2][: count + 1]
    if count:
        assert "the generated wrapper has 1 races, the first: planted" in report.notes[0]
        assert report.notes[-1].endswith("; it passed every check, and is what runs")


def test_no_more_than_two_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = Refusing(9, kernel=LAST)
    outcome = refused(monkeypatch, proof)
    report = outcome.report
    assert (report.verdict, report.stage, outcome.module) == ("refused", "verify", None)
    assert report.reason == "the generated wrapper has 1 races, the first: planted"
    assert report.races == ("planted",)
    assert len(proof.plans) == 3 and report.plan == proof.plans[0]
    assert len(report.notes) == 4 and report.notes[-1] == "no other plan is left, so the graph runs serially"


def test_an_order_that_is_not_kept_is_avoided_too(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = Refusing(1, kernel=LAST, out_of_order=True)
    report = refused(monkeypatch, proof).report
    assert is_proved(report), report.reason
    assert "does not keep the plan's order: planted" in report.notes[0]


def test_if_the_serial_body_has_races_no_other_plan_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_body, "find_races", lambda trace: ["a race"])
    (outcome,) = capture(*module_and_inputs("three_arms"), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.notes) == ("refused", ())


def test_another_plan_that_fails_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite, seen = run.rewrite, list[Plan]()

    def failing(reading: Reading, plan: Plan) -> Any:
        seen.append(plan)
        if len(seen) == 2:
            raise RuntimeError("planted failure")
        return rewrite(reading, plan)

    monkeypatch.setattr(run, "rewrite", failing)
    proof = Refusing(1, kernel=LAST)
    report = refused(monkeypatch, proof).report
    assert is_proved(report), report.reason
    assert [plan.streams for plan in seen] == [4, 4, 2] and len(proof.plans) == 2
    assert report.notes[1].endswith("; it is not used: RuntimeError: planted failure")


@pytest.mark.usefixtures("up_and_down")
def test_lost_fusions_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """On more than two streams the code is said to have 50 launches more, which take longer than streams save."""
    compare = run.compare_bodies

    def comparing(serial: Lowered, streamed: Lowered, kernels: KernelGraph, us: Sequence[float], launches: int) -> Any:
        found = compare(serial, streamed, kernels, us, launches)
        with streamed.active():
            used = len(streamed_body.conformance.launched_kernels(streamed))
        return replace(found, lost_fusions=50) if used > 2 else found

    monkeypatch.setattr(run, "compare_bodies", comparing)
    report = with_memory(Arms(), 100.0, streams=4).report
    assert is_proved(report), report.reason
    assert report.plan is not None and report.plan.streams == 2
    assert "50 launches more than serial counted in, less than min_gain" in report.notes[0]


# Plans that were measured


class Measuring(FakeAutotuner):
    """Measures plans in place of the first too."""

    def __init__(self, other: float = 35.0) -> None:
        super().__init__()
        self.other, self.measured_others = other, Attempts()

    def search(self, space: Any, first: Sequence[Plan], beat_us: float | None = None) -> tuple[Plan, Measurement]:
        self._called("search")
        return space.plan(space.best_initial()[0]), Measurement(SERIAL_US, self.played, tried=32)

    def fastest(self, first: Sequence[Plan]) -> tuple[Plan, Measurement]:
        self._called("fastest")
        self.measured_others += first
        return first[0], Measurement(SERIAL_US, self.other, tried=1)


Measured = Callable[[Measuring, Refusing], Any]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Plans the arms as a GPU with this autotuner would, with a proof that refuses the first plan."""

    def plan(autotuner: Measuring, proof: Refusing) -> Any:
        monkeypatch.setattr(run, "Autotuner", autotuner)
        monkeypatch.setattr(run, "prove", proof)
        monkeypatch.setattr(explain, "run_stages", functools.partial(run.run_stages, inputs=()))
        options = {**FREE_EVENTS, "min_gain": 0.02, "streams": 4}
        (outcome,) = capture(Arms(), (torch.randn(64, 64),), "h200", options)
        return outcome.report

    return plan


def test_a_plan_in_place_of_a_measured_one_is_measured_and_its_code_timed(measured: Measured) -> None:
    autotuner, proof = Measuring(), Refusing(1, kernel=LAST)
    report = measured(autotuner, proof)
    assert is_proved(report), report.reason
    assert autotuner.measured_others == [report.plan] == proof.plans[1:]
    assert report.measurement == Measurement(SERIAL_US, 35.0, 30.0, tried=1)
    assert [call for call in autotuner.calls if call in ("time_generated_code", "save")] == ["time_generated_code", "save"]
    assert autotuner.written == [(report.us, report.plan, report.measurement)]
    assert autotuner.calls[-1] == "close"
    assert report.notes[0].startswith("the first plan, 4 streams with a measured gain of 25.0%, is not used: ")
    assert "4 streams with a measured gain of 12.5%; it passed every check" in report.notes[1]


def test_one_that_is_measured_to_gain_too_little_is_not_lowered(measured: Measured) -> None:
    autotuner, proof = Measuring(other=39.9), Refusing(1, kernel=LAST)
    report = measured(autotuner, proof)
    assert report.verdict == "refused" and len(proof.plans) == 1
    assert len(autotuner.measured_others) == 2
    assert "; it is not used: the plan's measured gain is 0.3%, less than min_gain=2.0%" in report.notes[1]
    assert autotuner.written == []


def test_if_it_cannot_be_measured_the_simulator_decides_and_the_note_says_so(measured: Measured) -> None:
    autotuner = Measuring()
    autotuner.failing["fastest"] = RuntimeError("planted")
    report = measured(autotuner, Refusing(1, kernel=LAST))
    assert is_proved(report), report.reason
    assert report.measurement is None
    assert "time_generated_code" not in autotuner.calls and "save" not in autotuner.calls
    assert " with a simulated gain of " in report.notes[1]
    assert "(only simulated, because measuring it failed: planted); it passed every check" in report.notes[1]
