"""Check plans that are given as files: kept and edited ones run and are proved, and others never do."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import PlanFile
from graphstreams.pipeline import apply_plan, explain, run
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.plan_files import hash_of_plans, plan_for
from graphstreams.planning import given_plan
from graphstreams.reports.report import Report
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.wrapper.read import verify
from tests.pipeline.test_select_plan import SERIAL_US, FakeAutotuner
from tests.support.collective_modules import TwoSums, fake_ranks
from tests.support.kernel_graphs import graph_of
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs

Kernels = list[dict[str, Any]]
Edit = Callable[[Kernels], None]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the sample `diamond`: wa, then wb on its stream beside wc on stream 1, then their product, then wd."""
    return captured("diamond").report.save(tmp_path_factory.mktemp("kept")) / "plan.json"


def edited(kept: Path, folder: Path, edit: Edit, **fields: Any) -> Path:
    data = json.loads(kept.read_text())
    edit(data["kernels"])
    file = folder / "edited.json"
    file.write_text(json.dumps({**data, **fields}))
    return file


def swap(kernels: Kernels) -> None:
    """Let wb and wc exchange their streams, with the waits that they need there."""
    wb, wc, product = kernels[1:4]
    wb["stream"], wc["stream"] = wc["stream"], wb["stream"]
    wb["waits"], wc["waits"], product["waits"] = ["wa"], [], ["wb"]


def without_the_wait(kernels: Kernels) -> None:
    kernels[3]["waits"] = []


def reported(plan: Path | Sequence[Path], sample: str = "diamond", **options: Any) -> Report:
    (outcome,) = capture(*module_and_inputs(sample), "h200", {**FREE_EVENTS, "plan": plan, **options})
    return outcome.report


def streams_by_name(report: Report) -> dict[str, int]:
    assert report.plan is not None
    return {place.name: place.stream for place in report.plan.placements}


def is_proved(report: Report) -> bool:
    return report.verdict == "clean" and bool(report.order_kept) and not report.races and verify(report.wrapper) == []


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "graphstreams" and r.levelno >= logging.WARNING]


def test_a_plan_that_was_kept_is_in_effect(kept: Path) -> None:
    report, first = reported(kept), captured("diamond").report
    assert is_proved(report) and report.plan_file == str(kept) == report.as_dict()["plan_file"]
    assert report.plan is not None and first.plan is not None
    assert report.plan.events == first.plan.events
    assert [(p.name, p.stream) for p in report.plan.placements] == [(p.name, p.stream) for p in first.plan.placements]
    assert f"2 streams as {kept} has them, " in str(report.as_verdict())


def test_two_kernels_on_each_others_streams_are_proved_and_in_effect(kept: Path, tmp_path: Path) -> None:
    file = edited(kept, tmp_path, swap)
    module, inputs = module_and_inputs("diamond")
    (outcome,) = capture(module, inputs, "h200", {**FREE_EVENTS, "plan": str(file)})
    before = streams_by_name(captured("diamond").report)
    assert is_proved(outcome.report), outcome.report.notes
    assert streams_by_name(outcome.report) == before | {"wb": before["wc"], "wc": before["wb"]}
    streamed = outcome.report.wrapper.partition("with stream1:")[2]
    assert "event0.wait(stream1)  # wb needs wa" in streamed
    assert equal_as_captured(module, inputs, [outcome]) == [True]


def test_of_two_plans_for_a_graph_the_first_counts_and_a_note_names_the_other(kept: Path, tmp_path: Path) -> None:
    other = edited(kept, tmp_path, swap)
    report = reported([kept, other])
    assert is_proved(report) and report.plan_file == str(kept)
    assert f"{other} is for this graph too, and says otherwise than {kept}, which comes first" in report.notes
    same = edited(kept, tmp_path, lambda kernels: None, graph="7_inference")
    assert not any("says otherwise" in note for note in reported([kept, same]).notes)


def test_without_any_waits_they_are_placed(kept: Path, tmp_path: Path) -> None:
    def swap_only(kernels: Kernels) -> None:
        kernels[1]["stream"], kernels[2]["stream"] = 1, 0
        for kernel in kernels:
            del kernel["waits"]

    report = reported(edited(kept, tmp_path, swap_only))
    assert is_proved(report)
    assert (streams_by_name(report)["wb"], streams_by_name(report)["wc"]) == (1, 0)


def test_a_stream_may_be_left_out(kept: Path, tmp_path: Path) -> None:
    report = reported(edited(kept, tmp_path, lambda kernels: kernels[2].update(stream=3)))
    assert is_proved(report) and report.plan is not None
    assert (report.plan.streams, report.plan.used, report.as_dict()["streams"]) == (4, 2, 2)
    assert "with stream3:" in report.wrapper and "with stream1:" not in report.wrapper


def test_a_racy_edit_never_runs_and_names_the_kernels(kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = edited(kept, tmp_path, without_the_wait)
    report = reported(file)
    why = f"{file}: kernel 'diamond.mul' (stream 0) is not ordered after kernel 'wc' (stream 1), a RAW dependence; add the wait"
    assert report.notes == (f"the plan that was given is not used: {why}, or leave out all 'waits' to have them placed",)
    assert warnings_of(caplog) == [f"graphstreams: {report.name}: {report.notes[0]}"]
    # What runs is what would have without the file.
    assert is_proved(report) and report.plan_file == "" and report.plan is not None
    assert report.plan.events == captured("diamond").report.plan.events  # type: ignore[union-attr]


@pytest.mark.parametrize("strict", [True, "refused"])
def test_strict_makes_a_plan_that_is_not_used_a_refusal(kept: Path, tmp_path: Path, strict: Any) -> None:
    report = reported(edited(kept, tmp_path, without_the_wait), strict=strict)
    assert (report.verdict, report.stage, report.plan) == ("refused", "plan", None)
    assert "kernel 'diamond.mul' (stream 0) is not ordered after kernel 'wc'" in report.reason


def test_the_proof_refuses_a_race_that_the_check_of_the_plan_would_miss(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_plan, "check_plan", lambda graph, plan: None)
    report = reported(edited(kept, tmp_path, without_the_wait))
    (note,) = report.notes
    assert "edited.json: the generated wrapper has " in note and " races, the first: " in note
    assert is_proved(report) and report.plan_file == ""


def test_a_plan_runs_whatever_it_gains_and_a_note_says_so(kept: Path) -> None:
    report = reported(kept, min_gain=0.9)
    assert is_proved(report)
    (note,) = report.notes
    assert note.startswith(f"the plan runs because {kept} has it: the predicted gain is ") and "min_gain=90.0%" in note


@pytest.mark.parametrize("fields", [{"runs": "serial"}, {}])
def test_a_plan_that_keeps_the_graph_serial_does(kept: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    def on_one(kernels: Kernels) -> None:
        for kernel in kernels if not fields else ():
            kernel.update(stream=0, waits=[])

    file = edited(kept, tmp_path, on_one, **fields)
    report = reported(file, strict="refused")
    assert (report.verdict, report.reason) == ("serial", f"its plan, {file}, keeps it serial")


def test_the_plan_of_a_serial_graph_keeps_it_serial(tmp_path: Path) -> None:
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", {**FREE_EVENTS, "min_gain": 0.9})
    folder = outcome.report.save(tmp_path)
    assert PlanFile.loads((folder / "plan.json").read_text()).runs == "serial"
    assert reported(folder).verdict == "serial"


# Which file is for which graph


def test_a_plan_is_of_the_graph_with_its_kernels_whatever_its_name(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    captured("three_arms").report.save(tmp_path / "one")
    renamed = edited(kept, tmp_path, lambda kernels: None, graph="seventh").rename(tmp_path / "other.plan.json")
    for given in (tmp_path, [tmp_path / "one" / "plan.json", renamed]):
        assert reported(given).plan_file == str(renamed)
        assert reported(given, "three_arms").plan_file == str(tmp_path / "one" / "plan.json")


def test_a_graph_without_a_plan_of_its_own_goes_on_and_the_log_names_the_nearest(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = reported(kept, "norms", strict="refused")
    (note,) = report.notes
    assert report.plan_file == "" and note.startswith(
        f"no plan that was given is its own; the nearest is {kept}: the plan has kernel 'w"
    )
    assert warnings_of(caplog) == [f"graphstreams: {report.name}: {note}"]
    caplog.clear()
    for name in ("same.plan.json", "plan.json"):
        edited(kept, tmp_path, lambda kernels: None, graph="7_inference").rename(tmp_path / name)
    several = [tmp_path / "same.plan.json", tmp_path / "plan.json"]
    for given in (several, tmp_path):  # all may be for other graphs
        reported(given, "norms")
        assert warnings_of(caplog) == []
    graph = replace(captured("norms").reading.kernels, name="7_inference")
    assert plan_for(replace(graph, name="8_inference"), tuple(map(str, several)), 5).several
    assert not plan_for(graph, tuple(map(str, several)), 5).several  # their name says that they were meant


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda kernels: kernels[0].update(name="wq"), "the plan has kernel 'wq', which the graph does not have; the ne"),
        (lambda kernels: kernels.pop(), "the graph has kernel 'wd', which the plan does not place"),
        (lambda kernels: kernels[4].update(bytes=1), "kernel 'wd' reads and writes 18432 bytes, in the plan 1"),
        (lambda kernels: kernels[4].update(launches=[]), "kernel 'wd' launches extern_kernels.mm, in the plan nothing"),
        (lambda kernels: kernels[4].update(stream=5), "kernel 'wd' is on stream 5, and with the option streams=5 they"),
        (lambda kernels: kernels[4].update(stream="1"), "the 'stream' of kernel 'wd' is '1'"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_is_told_with_the_kernel(kept: Path, tmp_path: Path, edit: Edit, told: str) -> None:
    file = edited(kept, tmp_path, edit)
    graph = captured("diamond").report.kernels
    assert graph is not None
    found = plan_for(graph, [str(file)], 5)
    assert found.plan is None and found.refused.startswith(f"{file}: {told}")


def test_a_file_that_is_gone_or_a_folder_without_plans_is_told(tmp_path: Path) -> None:
    graph = graph_of(2)
    assert plan_for(graph, [str(tmp_path / "gone.json")], 5).refused == f"{tmp_path / 'gone.json'}: No such file or directory"
    assert (
        plan_for(graph, [str(tmp_path)], 5).refused == f"the folder {tmp_path} has no plan.json, nor one in a folder below it"
    )


def test_in_a_folder_of_ranks_each_has_its_own(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        folder = tmp_path / f"rank{rank}" / "0_inference"
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(kept.read_text())
    monkeypatch.setattr("graphstreams.pipeline.plan_files.folder_of_rank", lambda: "rank1")
    assert reported(tmp_path).plan_file == str(tmp_path / "rank1" / "0_inference" / "plan.json")


def test_the_hash_is_of_what_is_in_the_files(kept: Path, tmp_path: Path) -> None:
    file = edited(kept, tmp_path, lambda kernels: None)
    before = hash_of_plans([str(file)])
    edited(kept, tmp_path, swap)
    assert None not in (before, after := hash_of_plans([str(file)])) and before != after
    assert hash_of_plans([str(tmp_path)]) is None  # it has no plan.json
    file.rename(tmp_path / "plan.json")
    assert hash_of_plans([str(tmp_path)]) not in (None, before, after)
    assert hash_of_plans([]) is not None


# With a GPU that is planted


class Measuring(FakeAutotuner):
    """Measures the plan that is given, and that one only, at 20 us."""

    def fastest(self, first: Sequence[Plan]) -> tuple[Plan, Measurement]:
        self._called("fastest")
        (plan,) = first
        return plan, Measurement(SERIAL_US, 20.0, tried=1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    def plan(autotuner: Measuring, file: Path, **options: Any) -> Report:
        monkeypatch.setattr(run, "Autotuner", autotuner)
        monkeypatch.setattr(explain, "run_stages", functools.partial(run.run_stages, inputs=()))
        return reported(file, **options)

    return plan


def test_on_a_gpu_the_plan_is_measured_and_no_other(measured: Callable[..., Report], kept: Path, tmp_path: Path) -> None:
    autotuner = Measuring(compiled=39.9)
    report = measured(autotuner, edited(kept, tmp_path, swap), min_gain=0.5)
    assert is_proved(report), report.reason
    assert report.measurement is not None and (report.measurement.played_us, report.measurement.compiled_us) == (20.0, 39.9)
    assert "search" not in autotuner.calls and autotuner.calls[-1] == "close"
    assert [plan for _, plan, _ in autotuner.written] == [report.plan]
    assert autotuner.given is not None and autotuner.given.events == report.plan.events  # type: ignore[union-attr]
    assert any("measured gain is 0.3%, less than min_gain=50.0%" in note for note in report.notes)


def test_what_was_measured_of_the_plan_is_taken_from_disk(measured: Callable[..., Report], kept: Path) -> None:
    first = measured(autotuner := Measuring(), kept)
    ((us, plan, measurement),) = autotuner.written
    again = Measuring()
    again.on_disk = list(us), plan, measurement
    report = measured(again, kept)
    assert report.plan == first.plan and "fastest" not in again.calls


def test_a_plan_with_collectives_is_measured_and_kept_and_its_code_is_not_run(
    measured: Callable[..., Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_ranks():
        (outcome,) = capture(TwoSums(), [torch.empty(8, 64)], "h200", FREE_EVENTS)
        file = outcome.report.save(tmp_path) / "plan.json"
        autotuner = Measuring()
        monkeypatch.setattr(
            "tests.pipeline.test_apply_plan.module_and_inputs", lambda sample: (TwoSums(), [torch.empty(8, 64)])
        )
        report = measured(autotuner, file)
    assert report.verdict == "clean" and report.plan_file == str(file), report.reason
    assert [plan for _, plan, _ in autotuner.written] == [report.plan] and "time_generated_code" not in autotuner.calls


@pytest.mark.parametrize(("option", "expected"), [(None, -2), (-4, -4)])
def test_the_files_priority_counts_unless_one_is_asked_for(
    kept: Path, tmp_path: Path, option: int | None, expected: int
) -> None:
    report = reported(edited(kept, tmp_path, lambda kernels: None, priority=-2), priority=option)
    assert is_proved(report) and report.plan is not None and report.plan.priority == expected


def test_if_it_cannot_be_measured_the_times_are_modelled(measured: Callable[..., Report], kept: Path) -> None:
    autotuner = Measuring()
    autotuner.failing["times"] = RuntimeError("planted")
    report = measured(autotuner, kept)
    assert is_proved(report) and report.measurement is None and report.plan_file == str(kept)
    assert "kernels were not measured: RuntimeError: planted" in report.notes


def test_a_stage_that_fails_on_the_plan_leaves_the_graph_as_without(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise KeyError("planted")

    monkeypatch.setattr(apply_plan, "with_times", failing)
    report = reported(kept)
    assert report.notes == (f"the plan that was given is not used: {kept}: KeyError: 'planted'",)
    assert is_proved(report) and set(report.seconds) >= {"plan", "verify"}


# Dynamic sizes


def test_the_plan_of_a_graph_with_dynamic_sizes_says_no_bytes_that_depend_on_them(tmp_path: Path) -> None:
    module = torch.nn.ModuleDict({name: torch.nn.Linear(64, 64, bias=False) for name in "abc"})

    class Arms(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arms = module

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [arm(x) for arm in self.arms.values()]

    def planned(**options: Any) -> Report:
        (outcome,) = capture(Arms(), (torch.randn(8, 64),), "h200", {**FREE_EVENTS, **options}, dynamic=True)
        return outcome.report

    first = planned()
    file = first.save(tmp_path) / "plan.json"
    assert all(kernel.bytes is None for kernel in PlanFile.loads(file.read_text()).kernels)
    again = planned(plan=file)
    assert is_proved(again) and again.plan_file == str(file)
    assert again.threshold is not None and first.threshold is not None and again.threshold.sizes == first.threshold.sizes
    # The file says for which tokens, unless the option does; without it they are solved for.
    data = json.loads(file.read_text())
    limits = {"smallest": 3, "largest": 17}
    file.write_text(json.dumps({**data, "tokens": limits}))
    given, asked = planned(plan=file), planned(plan=file, max_tokens=9)
    for report, sizes in ((given, "3 <= {} <= 17"), (asked, "{} <= 9")):
        assert is_proved(report) and report.threshold is not None
        assert report.threshold.sizes == sizes.format(report.threshold.symbol)
    assert json.loads((given.save(tmp_path / "again") / "plan.json").read_text())["tokens"] == limits
    del data["tokens"]
    file.write_text(json.dumps(data))
    solved = planned(plan=file).threshold
    assert solved is not None and solved.sizes == first.threshold.sizes
    # A graph of a fixed size is another one.
    file.write_text(json.dumps({**data, "tokens": limits}))
    (outcome,) = capture(Arms(), (torch.randn(8, 64),), "h200", {**FREE_EVENTS, "plan": file})
    assert outcome.report.plan_file == "" and "is for a number of tokens that each call chooses" in outcome.report.notes[0]
