"""Check how variants of a graph are planned and timed, with an autotuner that runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import graphstreams
from graphstreams.costs.few_rows import FormTime
from graphstreams.errors import Unmeasurable, Unsupported
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.kernels.few_rows_forms import TensorCores
from graphstreams.options import Options
from graphstreams.pipeline import explain, kernel_variants
from graphstreams.pipeline.compilation import Progress
from graphstreams.pipeline.kernel_variants import GivenGraph, KernelVariants, Times
from graphstreams.pipeline.run import ReadGraph, read_graph
from graphstreams.pipeline.select_plan import PlanChoice, Task
from graphstreams.planning.modelled_plan import simulated_plan
from graphstreams.reports.report import Report
from tests.support import sample_modules

H200 = DEVICES["h200"]
FORM = FormTime(TensorCores(16, 32, splits=2), 3.0, 1e-3, 1e-3, True)


@dataclass
class Autotuner:
    """An autotuner whose graphs are named by what they capture."""

    serial: str
    log: list[str] = field(default_factory=list)

    @property
    def benchmark(self) -> Any:
        def captures(serial: Any, plan: Plan | None) -> list[Callable[[], Any]]:
            return [lambda: f"{self.serial} serial", *([lambda: f"{self.serial} plan"] if plan else [])]

        call = lambda serial: lambda: None  # noqa: E731
        return SimpleNamespace(
            captures=captures, direct_call=call, outputs=lambda serial: [torch.full((3,), float(len(self.serial)))]
        )

    def save(self, us: Sequence[float], plan: Plan, measurement: Measurement) -> None:
        self.log.append("saved")

    def close(self) -> None:
        self.log.append("closed")


@pytest.fixture
def beaten() -> list[float | None]:
    """What there was to beat in each search, in us."""
    return []


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, beaten: list[float | None]) -> list[Autotuner]:
    """The autotuners of all variants, which choose the plan of the simulator for equal kernels."""
    made: list[Autotuner] = []

    def choose(progress: Progress, task: Task, inputs: Any, graph: ReadGraph) -> tuple[PlanChoice, Any]:
        us = [10.0] * len(task.reading.kernels.kernels)
        progress.tell(us=tuple(us))
        beaten.append(task.beat_us)
        plan = simulated_plan(task.reading.kernels, us, H200, task.options)
        made.append(Autotuner(f"variant {len(made)}"))
        return PlanChoice(plan, Measurement(plan.serial_us, plan.streamed_us)), made[-1]

    def read(progress: Progress, gm: Any, options: Options, names: Any, device: Any, serial: Any, marked: Any) -> ReadGraph:
        return read_graph(progress, gm, options, names, H200, serial, marked)

    monkeypatch.setattr(kernel_variants, "choose_plan", choose)
    monkeypatch.setattr(kernel_variants, "read_graph", read)
    monkeypatch.setattr(kernel_variants, "device_at_hand", lambda: H200)
    monkeypatch.setattr(kernel_variants, "start_compiling", lambda source: False)
    return made


def on_graph(monkeypatch: pytest.MonkeyPatch, act: Callable[[KernelVariants], None]) -> None:
    """Call `act` with the variants of a graph of three products of one input."""

    def use(given: GivenGraph, at_hand: bool) -> None:
        act(KernelVariants(replace(given, options=Options(min_gain=0.0, event_us=0.0))))

    monkeypatch.setattr(explain, "use_fast_kernels", use)
    sample = (lambda m, x: (m.wa(x), m.wb(x).relu(), m.wc(x)), lambda: (torch.randn(4, 64, dtype=torch.bfloat16),))
    monkeypatch.setitem(sample_modules.SAMPLES, "narrow", sample)
    module, inputs = sample_modules.module_and_inputs("narrow")
    graphstreams.explain(module.to(torch.bfloat16), inputs, "h200")


def test_variants_have_kernels_and_plans_of_their_own(monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner]) -> None:
    def act(variants: KernelVariants) -> None:
        beside = variants.plan({})
        assert len(beside) >= 2 and beside <= {"arg0_1", "arg1_1", "arg2_1", "arg3_1"}
        variants.plan({"mm": FORM})
        first, second = (trial.graph.reading.kernels.kernels for trial in variants._trials)
        launched = [name for kernel in second for name in kernel.launches]
        assert {"few_rows_dot", "few_rows_splits"} <= set(launched) and len(second) == len(first) + 1
        variants.close()

    on_graph(monkeypatch, act)
    assert [each.log for each in tuned] == [["closed"], ["closed"]]


def test_all_variants_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner]) -> None:
    asked: list[list[Any]] = []

    def means(seconds: float, captures: Sequence[Callable[[], Any]], us: float) -> list[float]:
        asked.append([capture() for capture in captures])
        return [float(place) for place in range(len(captures))]

    monkeypatch.setattr(kernel_variants, "means_within", means)
    monkeypatch.setattr(kernel_variants, "times_in_turns", lambda calls, *_: [[7.0, 8.0, 9.0]] * len(calls))

    def act(variants: KernelVariants) -> None:
        variants.plan({})
        variants.plan({"mm": FORM})
        assert variants.times() == [Times(0.0, 1.0, 8.0), Times(2.0, 3.0, 8.0)]
        assert variants.difference(1) == 0.0
        variants.keep(0)

    on_graph(monkeypatch, act)
    assert asked == [["variant 0 serial", "variant 0 plan", "variant 1 serial", "variant 1 plan"]]
    assert [each.log for each in tuned] == [["saved"], []]


@pytest.mark.parametrize(
    ("verdict", "lasts"), [("clean", (33.0, "on {} streams")), ("serial", (40.0, "serially (its plan had a race)"))]
)
def test_what_lasts_is_the_time_of_the_code(
    monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner], verdict: str, lasts: tuple[float, str]
) -> None:
    found, used, trial = list[Any](), list[int](), list[Any]()

    def stages(plan: Plan, progress: Progress, task: Task, graph: ReadGraph, choice: PlanChoice, autotuner: Any) -> Report:
        assert (graph, choice.plan, autotuner) == (trial[0].graph, plan, tuned[0])  # nothing is read or compiled again
        assert autotuner.log == ["saved"] and tuned[1].log == ["closed"]
        reason = "" if verdict == "clean" else "its plan had a race"
        # 10 % more than its kernels as played took in the search.
        measured = Measurement(plan.serial_us, plan.streamed_us, compiled_us=1.1 * plan.streamed_us)
        return Report("g", verdict, reason, plan=replace(plan), measurement=measured)

    def act(variants: KernelVariants) -> None:
        variants.plan({"mm": FORM})
        variants.plan({})
        trial.extend(variants._trials)
        plan = trial[0].choice.plan
        assert plan is not None and plan.used > 1
        used.append(plan.used)
        monkeypatch.setattr(kernel_variants, "finish_stages", partial(stages, plan))
        found.append(variants.lasting(0, Times(40.0, 30.0)))
        variants.close()

    on_graph(monkeypatch, act)
    assert found[0][1] == lasts[1].format(*used) and found[0][0] == pytest.approx(lasts[0])
    assert tuned[0].log == ["saved", "closed"]


def test_variants_are_read_and_compile_before_the_last_of_them_is_measured_first(
    monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner], beaten: list[float | None]
) -> None:
    compiling: list[tuple[int, bool]] = []  # how many variants had been measured, and whether a kernel of ours compiles
    monkeypatch.setattr(
        kernel_variants, "start_compiling", lambda source: compiling.append((len(tuned), "few_rows_dot" in source))
    )

    def act(variants: KernelVariants) -> None:
        variants.plan({}, {"mm": FORM})
        assert compiling == [(0, False), (0, True)]
        first, second = (len(each.graph.reading.kernels.kernels) for each in variants._trials)
        assert second == first + 1
        assert [each.autotuner.serial for each in variants._trials] == ["variant 1", "variant 0"]
        ours = variants._trials[1].searched_us
        assert beaten == [None, ours] and ours == variants._trials[1].choice.measurement.played_us  # type: ignore[union-attr]
        variants.plan({"mm": FORM, "mm_1": FORM})
        assert beaten[2] == min(each.searched_us for each in variants._trials[:2])
        behind = replace(variants._trials[0].task, beat_us=variants._trials[0].searched_us / 1.06)
        variants._trials[0] = replace(variants._trials[0], task=behind)
        assert variants._trials[1].task.beat_us is None
        variants.keep(0)  # its search may have ended early
        variants.keep(1)
        variants.close()

    on_graph(monkeypatch, act)
    assert [each.log for each in tuned] == [["saved", "closed"], ["closed"], ["closed"]]


def test_what_no_compile_can_measure_is_told_from_what_failed(monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner]) -> None:
    """A kernel that nobody knows stays one: the graph is decided, and may be found in a cache."""
    changes: list[dict[str, Any]] = [{"exclusive": True}, {"collective": "start"}]
    reads, texts = kernel_variants.read_graph, ["when it is repeated is not known", "it holds collectives"]

    def read(*given: Any) -> ReadGraph:
        graph = reads(*given)
        first, *others = graph.reading.kernels.kernels
        kernels = replace(graph.reading.kernels, kernels=(replace(first, **changes[0]), *others))
        return replace(graph, reading=replace(graph.reading, kernels=kernels))

    monkeypatch.setattr(kernel_variants, "read_graph", read)

    def act(variants: KernelVariants) -> None:
        while changes:
            with pytest.raises(Unsupported, match=texts.pop(0)):
                variants.plan({})
            del changes[0]

    on_graph(monkeypatch, act)
    assert tuned == []


def test_a_graph_that_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch, tuned: list[Autotuner]) -> None:
    def choose(progress: Progress, *_: Any) -> tuple[PlanChoice, None]:
        progress.note("kernels were not measured: it holds a collective")
        return PlanChoice(None), None

    monkeypatch.setattr(kernel_variants, "choose_plan", choose)

    def act(variants: KernelVariants) -> None:
        with pytest.raises(Unmeasurable, match="it holds a collective"):
            variants.plan({})

    on_graph(monkeypatch, act)
