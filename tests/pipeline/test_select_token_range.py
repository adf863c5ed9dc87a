"""Check that each call chooses between the streamed and the serial body if the number of tokens is dynamic."""

import re

import pytest
import torch
from torch._inductor import config

from graphstreams import Options
from graphstreams.dynamic_shapes.crossover import dynamic_tokens
from graphstreams.ir.devices import DEVICES
from graphstreams.pipeline import run, select_token_range
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.select_plan import PlanChoice, Task
from graphstreams.pipeline.select_token_range import token_range
from graphstreams.runtime import dispatch
from graphstreams.runtime.dispatch import runs_on_streams
from tests.support.sample_modules import module_and_inputs

OPTIONS = {"min_gain": 0.0, "event_us": 0.0, "costs": "roofline"}
ROWS = 40  # of the sample


def planned(**options):
    (outcome,) = capture(*module_and_inputs("sized"), "h200", {**OPTIONS, **options}, dynamic=True)
    return outcome.report


def test_a_dynamic_graph_has_its_threshold_and_the_curves():
    report = planned()
    assert (report.verdict, report.threshold.largest) == ("clean", None)
    curve = {size: times for size, *times in report.threshold.curve}
    assert curve[ROWS] == [pytest.approx(report.plan.serial_us), pytest.approx(report.plan.streamed_us)]


def test_a_static_graph_has_none():
    (outcome,) = capture(*module_and_inputs("sized"), "h200", OPTIONS)
    assert (outcome.report.verdict, outcome.report.threshold) == ("clean", None)


@pytest.mark.parametrize("limit", [8, ROWS, 100])
def test_the_users_limit_does_not_decide_for_the_graph(limit):
    report = planned(max_tokens=limit)
    assert (report.verdict, report.threshold.largest, report.threshold.reason) == ("clean", limit, f"max_tokens={limit}")
    assert any(f"planned for {limit} tokens" in note for note in report.notes) == (limit < ROWS)


def test_an_example_with_too_many_tokens_is_planned_for_fewer():
    # At 2 ** 20 rows the two products side by side are a smaller share of the whole than at few.
    module, _ = module_and_inputs("diamond")
    rows = 2**20
    (whole,) = capture(module, (torch.empty(rows, 64),), "h200", {**OPTIONS, "max_extra_memory": 100.0}, dynamic=True)
    curve = {size: 1 - streamed / serial for size, serial, streamed in whole.report.threshold.curve}
    between = (curve[rows] + curve[2]) / 2
    assert curve[rows] < curve[2]
    (outcome,) = capture(module, (torch.empty(rows, 64),), "h200", {**OPTIONS, "min_gain": between}, dynamic=True)
    report = outcome.report
    assert report.verdict == "clean", report.reason
    assert "planned for" in report.notes[0] and report.threshold.largest < rows
    assert report.plan.serial_us < whole.report.plan.serial_us


def test_a_note_says_that_fewer_tokens_would_not_gain_either():
    report = planned(min_gain=0.9)
    assert (report.verdict, report.threshold) == ("serial", None)
    assert re.fullmatch(rf"nor would fewer tokens than {ROWS} \(s\d+\) gain enough", report.notes[-1])


def test_the_reason_is_not_the_users_limit_alone_where_fewer_tokens_do_not_gain_either():
    reason = planned(max_tokens=8, min_gain=0.9).reason
    more = rf"there are {ROWS} tokens, more than max_tokens=8"
    assert re.fullmatch(rf"{more}; nor would fewer tokens than {ROWS} \(s\d+\) gain enough", reason)


def test_a_note_says_why_no_plan_for_fewer_tokens_was_made(monkeypatch):
    def unknown(*arguments):
        raise ValueError("no example value for the dynamic size 's9'")

    monkeypatch.setattr(select_token_range, "plan_for_fewer", unknown)
    note = planned(min_gain=0.9).notes[-1]
    assert re.fullmatch(rf"no plan was made for fewer tokens than {ROWS} \(s\d+\): no example value .* 's9'", note)


def test_where_every_size_is_predicted_to_gain_a_plausible_one_is_measured():
    """40 rows in the example: up to 512 of them, a power of two not above 16 times as many."""
    asked = []

    def gain_at(plan, sizes):
        asked.append(sizes)
        return 0.1 if set(sizes.values()) <= set(range(200)) else -0.1

    (outcome,) = capture(*module_and_inputs("sized"), "h200", OPTIONS, dynamic=True)
    tokens, report = dynamic_tokens(outcome.reading.module), outcome.report
    task = Task(outcome.reading, DEVICES["h200"], Options(**OPTIONS))
    found, _ = token_range(task, tokens, report.us, PlanChoice(report.plan), None, gain_at)
    rows = [size for sizes in asked for size in sizes.values()]
    assert (rows[0], len(rows)) == (512, 6)
    assert found.largest in range(150, 200) and "; measured gains: " in found.reason


def test_a_static_graph_with_more_rows_than_the_limit_is_serial():
    (outcome,) = capture(*module_and_inputs("sized"), "h200", {**OPTIONS, "max_tokens": 8})
    assert outcome.report.verdict == "serial"


CHECK = re.compile(
    r"def (call|partition_0)\((?:self, )?args\):\n"
    r" +if _runs_on_streams\(args, (.*)\):\n +return call_on_streams\(args\)\n +(.*) = args\n"
)


def condition(source):
    """Return the name of the function that launches the kernels, its check's arguments behind the inputs, and its own."""
    ((name, arguments, inputs),) = CHECK.findall(source)
    sizes = {argument: symbol for symbol, argument in re.findall(r"^ +(s\d+) = (arg\d+_1)$", source, re.MULTILINE)}
    return name, eval(f"({arguments},)"), [sizes.get(each, each) for each in inputs.split(", ")]


def streams_at(source, rows):
    """Return whether a call of the wrapper with so many rows runs the streamed body: by what is in its list of inputs."""
    _, arguments, inputs = condition(source)
    values = [rows if name.startswith("s") else torch.empty(rows, 64) for name in inputs]
    return runs_on_streams(values, *arguments)


@pytest.mark.parametrize("settings", [{}, {"triton.cudagraphs": True}])
@pytest.mark.parametrize("limit", [8, None])
@pytest.mark.parametrize("capturing", [True, False])
def test_calls_choose_by_their_size_while_they_are_captured(monkeypatch, settings, limit, capturing):
    monkeypatch.setattr(dispatch, "_capturing", lambda: capturing)
    with config.patch(settings):
        report = planned(max_tokens=limit)
    assert condition(report.wrapper)[0] == ("partition_0" if settings else "call")
    choices = [streams_at(report.wrapper, rows) for rows in (4, 9, 8, 100)]
    assert choices == [capturing and (limit is None or rows <= limit) for rows in (4, 9, 8, 100)]


def test_the_wrapper_says_for_which_sizes_it_streams():
    report = planned(max_tokens=8)
    _, (direct, size, largest, smallest), inputs = condition(report.wrapper)
    assert (direct, largest, smallest) == (False, 8, 0)
    (symbol,) = [i for i, name in enumerate(inputs) if name == report.threshold.symbol]
    assert size == f"inputs[{symbol}]"
    assert condition(planned().wrapper)[1] == (False,)


def test_inputs_that_only_pass_a_wait_do_not_count_as_changed(monkeypatch):
    """Inductor makes no CUDA graph if an input is changed that may move."""
    lowered = []

    def finished(progress, task, bodies, *rest):
        lowered.append((bodies.serial, bodies.streamed))
        real(progress, task, bodies, *rest)

    real = run.finish
    monkeypatch.setattr(run, "finish", finished)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", OPTIONS)
    assert outcome.report.plan.streams == 2
    serial, streamed = (each.graph for each in lowered[0])
    assert (list(serial.mutated_inputs), serial.mutated_input_idxs, list(streamed.mutated_inputs)) == ([], [], [])
    (outcome,) = capture(*module_and_inputs("write_after_read"), "h200", OPTIONS)
    assert outcome.report.plan.streams == 2
    serial, streamed = (each.graph for each in lowered[1])
    assert len(serial.mutated_inputs) == len(serial.mutated_input_idxs) == 1
    assert tuple(serial.mutated_inputs) == tuple(streamed.mutated_inputs) == outcome.reading.mutated
