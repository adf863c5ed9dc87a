"""Where the number of tokens is dynamic, each call chooses between the streamed and the serial graph."""

import pytest
import torch
from graphstreams.runtime.twin import Dispatch, Twin
from sample_modules import module_and_inputs
from torch._dynamo.utils import counters

from graphstreams import Options, StreamPass, backend, pipeline, token_plans
from graphstreams.explaining import capture
from graphstreams.sizing import dynamic_tokens

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


def test_where_every_size_is_predicted_to_gain_a_plausible_one_is_measured():
    """40 rows in the example: up to 512 of them, a power of two not above 16 times as many."""
    asked = []

    class Measures:
        def gain_at(self, plan, sizes):
            asked.append(sizes)
            return 0.1 if set(sizes.values()) <= set(range(200)) else -0.1

    (outcome,) = capture(*module_and_inputs("sized"), "h200", OPTIONS, dynamic=True)
    tokens, report = dynamic_tokens(outcome.reading.module), outcome.report
    outcome.tuner = Measures()
    found = token_plans._threshold(outcome, report.plan, None, tokens, Options(**OPTIONS))
    rows = [size for sizes in asked for size in sizes.values()]
    assert (rows[0], len(rows)) == (512, 6)
    assert found.largest in range(150, 200) and "; measured gains: " in found.reason


def test_a_static_graph_with_more_rows_than_the_limit_is_serial():
    (outcome,) = capture(*module_and_inputs("sized"), "h200", {**OPTIONS, "max_tokens": 8})
    assert outcome.report.verdict == "serial"


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("limit", [8, None])
def test_calls_of_the_backend_choose(monkeypatch, mode, limit):
    choices, call = [], Twin.__call__

    def watched(self, inputs):
        choices.append(self._streams(inputs))
        return call(self, inputs)

    def dispatch_of(compiled):
        return Dispatch("inputs[0]", limit) if limit else None

    monkeypatch.setattr(backend, "dispatch_in_source", dispatch_of)
    monkeypatch.setattr(StreamPass, "__call__", lambda self, graph, is_inference: None)
    monkeypatch.setattr(Twin, "__call__", watched)
    torch._dynamo.reset()
    counters.clear()

    def products(x, y):
        return (x @ y).relu(), x @ y.t()

    compiled = torch.compile(products, backend="graphstreams", mode=mode)
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        for rows in (4, 9, 8, 100):
            x, y = torch.randn(rows, 4), torch.randn(4, 4)
            torch._dynamo.mark_dynamic(x, 0)
            torch.testing.assert_close(compiled(x, y), products(x, y))
    assert choices == ([True, False, True, False] if limit else [])
    assert counters["stats"]["unique_graphs"] == 1


def test_the_streamed_wrapper_says_for_which_sizes_it_runs():
    report = planned(max_tokens=8)
    dispatch = Dispatch.of(report.wrapper)
    assert (dispatch.largest, dispatch.smallest) == (8, 0)
    assert Dispatch.of(planned().wrapper) is None


def test_inputs_that_only_pass_a_wait_do_not_count_as_changed(monkeypatch):
    """Inductor makes no CUDA graph where an input is changed that may move."""
    lowered = []

    def generated(outcome):
        lowered.append(real(outcome))
        return lowered[-1]

    real = pipeline._generated
    monkeypatch.setattr(pipeline, "_generated", generated)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", OPTIONS)
    assert outcome.report.plan.streams == 2
    assert (list(lowered[0].graph.mutated_inputs), lowered[0].graph.mutated_input_idxs) == ([], [])
    (outcome,) = capture(*module_and_inputs("write_after_read"), "h200", OPTIONS)
    assert outcome.report.plan.streams == 2
    assert len(lowered[1].graph.mutated_inputs) == len(lowered[1].graph.mutated_input_idxs) == 1
    assert tuple(lowered[1].graph.mutated_inputs) == outcome.reading.mutated
