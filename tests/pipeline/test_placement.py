"""Check that kernels are where a user has put them, that the report says why, and what is said of names that fit nothing."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.backend import StreamPass
from graphstreams.errors import StaySerial
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.options import Options
from graphstreams.pipeline import explain, run
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.placement import placed
from graphstreams.reports.report import Report
from graphstreams.runtime import matched_names
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.wrapper.read import verify
from tests.pipeline.test_select_plan import FakeAutotuner
from tests.support.sample_modules import FREE_EVENTS, append_row, captured, module_and_inputs

X = (torch.ones(2, 64),)


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    before = set(matched_names._matched), set(matched_names._told)
    matched_names._matched.clear()
    matched_names._told.clear()
    yield
    matched_names._matched.update(before[0])
    matched_names._told.update(before[1])


class Arm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class Arms(nn.Module):
    """Three arms of three kernels each: a product, one that adds a bias and takes the maximum with 0, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.middle, self.right = Arm(), Arm(), Arm()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.left(x), self.middle(x), self.right(x)]


def reported(module: nn.Module | None = None, **options: Any) -> Report:
    (outcome,) = capture(module or Arms(), X, "h200", {**FREE_EVENTS, **options})
    return outcome.report


def streams_of(report: Report, arm: str) -> set[int]:
    """Return the streams of the kernels of one arm."""
    assert report.plan is not None
    return {place.stream for place in report.plan.placements if place.name.startswith(f"{arm}.")}


def is_proved(report: Report) -> bool:
    return report.verdict == "clean" and bool(report.order_kept) and not report.races and verify(report.wrapper) == []


def why_here(report: Report) -> dict[str, str]:
    return {region["name"]: region["why_here"] for region in report.as_dict()["regions"]}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "graphstreams" and r.levelno >= logging.WARNING]


def test_modules_and_kernels_are_where_they_were_put_and_the_report_says_why() -> None:
    module = Arms()
    options = {**FREE_EVENTS, "pin": {"left": 3, "middle.up": 1}, "exclude": ["right.*"]}
    (outcome,) = capture(module, X, "h200", options)
    report = outcome.report
    assert is_proved(report), report.reason
    assert streams_of(report, "left") == {3} and streams_of(report, "right") == {0}
    reasons = why_here(report)
    assert reasons["left.up"].startswith("It is pinned to stream 3 by 'left'. It needs no other kernel")
    assert reasons["middle.up"].startswith("It is pinned to stream 1 by 'middle.up'. ")
    assert reasons["right.up"].startswith("It is excluded by 'right.*', so it is on the caller's stream. ")
    assert "pinned" not in reasons["middle.down"] and "excluded" not in reasons["middle.down"]
    assert equal_as_captured(module, X, [outcome]) == [True]


def test_without_them_the_plan_is_another_one() -> None:
    report = reported()
    assert is_proved(report) and streams_of(report, "left") != {3}


def test_marks_in_the_models_code_do_the_same_and_the_innermost_counts() -> None:
    module = Arms()
    graphstreams.exclude(module.left)
    graphstreams.pin(module.right, 2)
    graphstreams.pin(module.right.down, 4)
    report = reported(module)
    assert is_proved(report), report.reason
    assert streams_of(report, "left") == {0}
    reasons = why_here(report)
    assert reasons["left.up"].startswith("It is excluded by graphstreams.exclude for module 'left', so it is on")
    assert reasons["right.down"].startswith("It is pinned to stream 4 by graphstreams.pin for module 'right.down'.")
    assert reasons["right.up"].startswith("It is pinned to stream 2 by graphstreams.pin for module 'right'.")


class Direct(Arms):
    """Calls what is in a module, and never the module."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.left.down(self.left.up(x)), self.middle(x), self.right(x)]


def test_a_module_need_not_be_called_itself() -> None:
    report = reported(Direct(), pin={"left": 3})
    assert is_proved(report) and streams_of(report, "left") == {3}
    module = Direct()
    graphstreams.pin(module.left, 3)
    report = reported(module)
    assert is_proved(report) and streams_of(report, "left") == {3}


def test_a_marked_module_may_have_several_names() -> None:
    module = Arms()
    module.right = graphstreams.pin(module.left, 3)
    report = reported(module)
    assert is_proved(report) and report.kernels is not None
    pinned = {kernel.pinned for kernel in report.kernels.kernels if {"L['self'].left", "L['self'].right"} & {*kernel.modules}}
    assert pinned == {3}


def test_names_may_be_for_one_graph() -> None:
    names = {"*_inference": {"left": 2}, "none": {"left": 1}}
    report = reported(pin=names, exclude={"none": ["right"]})
    assert is_proved(report) and streams_of(report, "left") == {2}
    assert "the options pin and exclude have names for other graphs only: 'none'" in report.notes


def test_a_pin_does_not_make_streams_worth_it() -> None:
    report = reported(pin={"*": 1}, min_gain=0.02)
    assert (report.verdict, report.stage) == ("serial", "plan")
    assert report.reason.startswith("the predicted gain is ")


def test_the_reason_of_a_serial_graph_and_the_cards_name_the_names() -> None:
    report = reported(exclude=["*"])
    told = "no placement on several streams is faster: the kernels that have to be on stream 0 take 100.0% of the serial time: "
    assert (report.verdict, report.stage) == ("serial", "plan")
    assert report.reason.startswith(told) and report.reason.endswith(" and 6 more") and "(excluded by '*')" in report.reason
    cards = {region["name"]: region["why_not_beside"] for region in report.as_dict()["regions"]}
    others = "'middle.up', 'middle.up#2', 'middle.down' and 3 more"
    assert cards["left.up"] == f"Nothing runs beside it: {others} have to be on the same stream."


# Contradictions


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pin": {"left": 1, "left.up": 2}}, "'left.up' is pinned to stream 1 by 'left', and pinned to stream 2 by 'left.up'"),
        ({"pin": {"left": 1}, "exclude": ["*.up"]}, "'left.up' is pinned to stream 1 by 'left', and excluded by '*.up'"),
    ],
)  # fmt: skip
def test_two_streams_for_a_kernel_are_refused(options: dict[str, Any], told: str) -> None:
    report = reported(**options)
    assert (report.verdict, report.stage, report.reason) == ("refused", "read", f"kernel {told}")


def test_a_mark_and_an_option_that_differ_are_refused() -> None:
    module = Arms()
    graphstreams.exclude(module.left)
    report = reported(module, pin={"left.up": 1})
    told = "kernel 'left.up' is pinned to stream 1 by 'left.up', and excluded by graphstreams.exclude for module 'left'"
    assert (report.verdict, report.reason) == ("refused", told)


def test_a_mark_beyond_the_streams_is_refused() -> None:
    module = Arms()
    graphstreams.pin(module.left, 6)
    told = "kernel 'left.up' is pinned to stream 6 by graphstreams.pin for module 'left', and with streams=5 they are 0 to 4"
    assert reported(module).reason == told


GRAPH = KernelGraph("0_inference", (Kernel(0, "a", "gemm", modules=("L['self'].a",)), Kernel(1, "b", "gemm")), ())


def test_a_unit_of_several_launches_cannot_be_on_two_streams() -> None:
    unit = replace(
        GRAPH.kernels[0], launches=("x", "y"), joined="they write one buffer", modules=("L['self'].a", "L['self'].c")
    )
    with pytest.raises(StaySerial) as raised:
        placed(replace(GRAPH, kernels=(unit, GRAPH.kernels[1])), Options(pin={"a": 1, "c": 2}))  # type: ignore[arg-type]
    told = "kernel 'a' is pinned to stream 1 by 'a', and pinned to stream 2 by 'c'"
    assert str(raised.value) == f"{told}; its 2 launches are one unit: they write one buffer"
    assert raised.value.verdict == "refused"


def test_a_unit_of_two_marked_modules_of_which_none_is_inside_the_other_is_refused() -> None:
    unit = replace(GRAPH.kernels[0], modules=("L['self']", "L['self'].a", "L['self'].longer", "L['self'].longer.b"))
    one, other, inner = (
        MarkedModule("L['self'].a", 1),
        MarkedModule("L['self'].longer", 2),
        MarkedModule("L['self'].longer.b", 1),
    )
    graph = replace(GRAPH, kernels=(unit, GRAPH.kernels[1]))
    with pytest.raises(StaySerial) as raised:
        placed(graph, Options(), [MarkedModule("", 0), one, other])
    assert str(raised.value) == (
        "kernel 'a' is pinned to stream 1 by graphstreams.pin for module 'a', and pinned to stream 2 by graphstreams.pin for "
        "module 'longer'; it is fused of 'a', 'longer.b': name kernels in place of modules"
    )
    kernel, _ = placed(graph, Options(), [one, other, inner])[0].kernels
    assert kernel.pinned == 1


def test_a_kernel_that_has_to_stay_stays_with_a_note() -> None:
    kernels = (replace(GRAPH.kernels[0], exclusive=True, exclusive_reason="it draws"), GRAPH.kernels[1])
    graph, notes = placed(replace(GRAPH, kernels=kernels), Options(pin={"*": 1}))  # type: ignore[arg-type]
    assert [kernel.bound_stream for kernel in graph.kernels] == [0, 1]
    why = "it keeps its place against every other kernel (it draws)"
    assert notes == [f"kernel 'a' is pinned to stream 1 by '*', but stays on the caller's stream: {why}"]


def test_a_custom_operator_stays_with_a_note() -> None:
    class Cached(Arms):
        def forward(self, x: Tensor) -> Any:
            rows = [self.left.up(x), self.right.up(x)]
            append_row(x, rows[0])
            return rows

    report = reported(Cached(), pin={"*append_row*": 1})
    assert any("is pinned to stream 1 by '*append_row*', but stays on the caller's stream: " in note for note in report.notes)


@pytest.mark.parametrize("seed", range(6))
def test_random_pins_of_real_graphs_are_kept_and_proved(seed: int) -> None:
    rng = random.Random(seed)
    for sample in ("diamond", "three_arms", "write_after_read"):
        module, inputs = module_and_inputs(sample)
        kernels = captured(sample).report.kernels
        assert kernels is not None
        pins = {kernel.name: rng.randrange(5) for kernel in kernels.kernels if rng.random() < 0.6}
        (outcome,) = capture(module, inputs, "h200", {**FREE_EVENTS, "pin": pins})
        report = outcome.report
        assert report.plan is not None and report.kernels is not None
        for place in report.plan.placements:
            kernel = report.kernels.kernels[place.kernel]
            assert place.stream == kernel.bound_stream or kernel.bound_stream is None
            assert kernel.pinned == pins.get(kernel.name) or kernel.on_caller
        # A pin may make every plan longer than the serial code.
        assert is_proved(report) or (report.verdict, report.stage) == ("serial", "plan"), report.reason
        if report.verdict == "clean":
            assert equal_as_captured(module, inputs, [outcome]) == [True]


# Names that match nothing


def test_a_name_that_matches_nothing_is_one_warning_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    options = Options(pin={"aa": 1}, exclude=["b"])  # type: ignore[arg-type]
    for _ in range(2):
        _, notes = placed(GRAPH, options)
        assert notes == ["'aa' of the option pin matches no kernel and no module of the graph; the nearest names are 'a', 'b'"]
    assert warnings_of(caplog) == [f"graphstreams: 0_inference: {notes[0]}"]


def test_a_name_that_matched_in_an_earlier_graph_is_a_note_only(caplog: pytest.LogCaptureFixture) -> None:
    options = Options(exclude=["a"])  # type: ignore[arg-type]
    placed(GRAPH, options)
    other = KernelGraph("1_inference", (Kernel(0, "c", "gemm"),), ())
    _, notes = placed(other, options)
    assert notes == ["'a' of the option exclude matches no kernel and no module of the graph; the nearest names are 'c'"]
    assert warnings_of(caplog) == []


def test_of_another_graphs_names_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    _, notes = placed(GRAPH, Options(pin={"1_inference": {"zz": 1}}))  # type: ignore[arg-type]
    assert notes == ["the options pin and exclude have names for other graphs only: '1_inference'"]
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("name", ["0_inferense", "inference", "x*"])
def test_a_name_that_no_graph_can_have_is_one_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        placed(GRAPH, Options(pin={name: {"a": 1}}))  # type: ignore[arg-type]
    assert warnings_of(caplog) == [
        f"graphstreams: 0_inference: the options pin and exclude have names for a graph {name!r}, and none of those planned so "
        "far is one, nor can be a later one; "
        "this one is '0_inference'"
    ]


def test_a_name_of_a_graph_that_was_before_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    options = Options(pin={"0_inference": {"a": 1}})  # type: ignore[arg-type]
    placed(GRAPH, options)
    placed(replace(GRAPH, name="1_inference"), options)
    assert warnings_of(caplog) == []


# Caches, measured plans, plans of files


def test_pins_and_marks_are_in_the_key_of_inductors_cache() -> None:
    passes = [
        StreamPass(), StreamPass({"pin": {"a": 1}}), StreamPass({"exclude": ["a"]}), StreamPass({"pin": {"a": 2}}),
        StreamPass(marked=[MarkedModule("L['self'].a", 1)]), StreamPass(marked=[MarkedModule("L['self'].a", 0)]),
    ]  # fmt: skip
    assert len({each.uuid() for each in passes}) == len(passes)


def test_measured_plans_have_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    autotuner = FakeAutotuner(played=20.0, compiled=20.0)
    monkeypatch.setattr(run, "Autotuner", autotuner)
    monkeypatch.setattr(explain, "run_stages", functools.partial(run.run_stages, inputs=()))
    report = reported(pin={"left": 2}, exclude=["right"])
    assert is_proved(report) and report.measurement is not None and "search" in autotuner.calls
    assert streams_of(report, "left") == {2} and streams_of(report, "right") == {0}


def test_a_plan_of_a_file_has_to_have_them_too(tmp_path: Any) -> None:
    file = reported(pin={"left": 2}).save(tmp_path) / "plan.json"
    assert reported(plan=file, pin={"left": 2}).plan_file == str(file)
    report = reported(plan=file, pin={"left": 1})
    assert is_proved(report) and report.plan_file == "" and streams_of(report, "left") == {1}
    (note,) = report.notes
    assert note.endswith("kernel 'left.up' is on stream 2, and has to be on stream 1: pinned to stream 1 by 'left'")


def test_a_graph_of_dynamic_sizes_has_them_at_each_size() -> None:
    tokens, options = torch.ones(512, 64), {**FREE_EVENTS, "pin": {"left": 2}, "max_tokens": 8}
    (outcome,) = capture(Arms(), (tokens,), "h200", options, dynamic=True)
    report = outcome.report
    assert report.plan is not None, report.reason
    assert streams_of(report, "left") == {2}  # a plan for fewer tokens than the example's
