"""Check the files of a report, and what its text says."""

import functools
import json

import pytest
import torch

from graphstreams.costs.profile import load_profile
from graphstreams.ir.plan_file import PlanFile
from graphstreams.pipeline.explain import capture, explain
from graphstreams.planning.given_plan import given_plan
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs

FILES = {
    "graph_serial.py", "graph_streams.py", "wrapper.py", "plan.json", "profile.json", "table.txt", "timeline.json",
    "report.json", "report.html", "plan.svg", "kernels.dot",
}  # fmt: skip


class _Indexer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wk, self.wq = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))

    def forward(self, hidden, cache, position):
        cache[position] = self.wk(hidden)
        return self.wq(hidden) @ cache.t()


class _Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.indexer = _Indexer()
        self.q_b = torch.nn.Linear(64, 64, bias=False)

    def forward(self, hidden, cache, position):
        return self.indexer(hidden, cache, position), self.q_b(hidden)


INPUTS = torch.empty(2, 64), torch.empty(16, 64), torch.tensor([3, 5])


@functools.cache
def report():
    return explain(_Attention(), INPUTS, target="h200", options=FREE_EVENTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return report().save(tmp_path_factory.mktemp("reports") / "deep" / "er")


def planned(saved):
    """Return the plan that `plan.json` makes of the graph."""
    return given_plan(PlanFile.loads((saved / "plan.json").read_text()), report().kernels, 5)


def parsed(saved, name="report.json"):
    return json.loads((saved / name).read_text())


def test_all_files_are_written(saved):
    assert {path.name for path in saved.iterdir()} >= FILES


def test_the_report_says_what_was_proved(saved):
    data = parsed(saved)
    assert (data["verdict"], data["reason"], data["order_kept"], data["races"]) == ("clean", "", True, [])
    assert data["kernels_serial"] == data["kernels_streamed"] == 5
    assert data["device"] == "NVIDIA H200"


def test_the_report_counts_streams_and_events(saved):
    data, plan = parsed(saved), planned(saved)
    assert data["streams"] == plan.streams > 1
    assert data["events"] == len(plan.events) > 0
    assert (data["launched_by_the_host"], data["own_kernels"]) == ("serial", 0)


def test_predicted_times_are_in_order(saved):
    predicted = parsed(saved)["predicted_us"]
    assert 0 < predicted["lower_bound"] <= predicted["streamed"] < predicted["serial"]


def test_each_region_names_its_parameters(saved):
    regions = {region["name"]: region for region in parsed(saved)["regions"]}
    assert regions.keys() >= {"indexer.wk", "indexer.wq", "q_b"}
    assert "indexer.wk.weight" in regions["indexer.wk"]["parameters"]
    assert "q_b.weight" in regions["q_b"]["parameters"]
    assert (regions["indexer.wk"]["modules"], regions["q_b"]["modules"]) == (["indexer", "indexer.wk"], ["q_b"])
    assert all(region["start_us"] <= region["end_us"] for region in regions.values())


def test_regions_are_those_of_the_plan(saved):
    plan = planned(saved)
    placed = [(p.kernel, p.stream) for p in plan.placements]
    assert [(region["kernel"], region["stream"]) for region in parsed(saved)["regions"]] == placed


def test_the_file_of_the_plan_is_the_plan(saved):
    plan, made = report().plan, planned(saved)
    assert [(p.kernel, p.stream) for p in made.placements] == [(p.kernel, p.stream) for p in plan.placements]
    assert (made.events, made.streams, made.priority) == (plan.events, plan.streams, plan.priority)


def test_the_profile_has_the_times_that_were_planned_with(saved):
    graph, us = load_profile(saved / "profile.json")
    assert {kernel.name: time for kernel, time in zip(graph.kernels, us, strict=True)} == {
        kernel.name: time for kernel, time in zip(report().kernels.kernels, report().us, strict=True)
    }
    assert parsed(saved, "profile.json")["costs"] == report().costs
    again = explain(_Attention(), INPUTS, target="h200", options={**FREE_EVENTS, "costs": str(saved / "profile.json")})
    assert (again.us, again.verdict) == (report().us, "clean")


def test_each_region_of_the_graph_has_a_heading(saved):
    text = (saved / "graph_streams.py").read_text()
    plan = report().plan
    for place in plan.placements:
        taken, alone = place.end_us - place.start_us, report().us[place.kernel]
        assert f"==== {place.name}: stream {place.stream}, {taken:.1f} us in the plan, {alone:.1f} us alone" in text
    assert text.count("# ====") == len(plan.placements)
    assert "reads indexer.wk.weight" in text


def test_headings_name_what_a_kernel_waits_for(saved):
    text = (saved / "graph_streams.py").read_text()
    plan = planned(saved)
    waits = sum(wait.kernel >= 0 for event in plan.events for wait in event.waits)
    assert waits > 0
    assert text.count("#      waits for ") == len({w.kernel for e in plan.events for w in e.waits if w.kernel >= 0})
    assert "waits for fork" in text


def test_the_serial_graph_has_the_same_headings_and_no_streams(saved):
    serial, streams = ((saved / name).read_text() for name in ("graph_serial.py", "graph_streams.py"))
    heads = [line for line in serial.splitlines() if "# ====" in line]
    assert sorted(heads) == sorted(line for line in streams.splitlines() if "# ====" in line)
    assert len(heads) == len(report().kernels.kernels)
    assert "def forward" in serial and "record_event" not in serial


def test_graphs_begin_with_the_verdict_and_name_their_inputs(saved):
    for name in ("graph_serial.py", "graph_streams.py"):
        lines = (saved / name).read_text().splitlines()
        assert lines[0].startswith(f"# {report().name}: clean. Predicted ")
        inputs = [line for line in lines if line.startswith("        # arg")]
        assert "        # arg0_1: indexer.wk.weight" in inputs or any("indexer.wk.weight" in line for line in inputs)
        assert not any("No stacktrace found" in line or "Annotation" in line for line in lines)


def test_the_wrapper_says_what_events_are_for(saved):
    plan, text = report().plan, (saved / "wrapper.py").read_text()
    names = {place.kernel: place.name for place in plan.placements}
    records = [line for line in text.splitlines() if ".record(" in line]
    assert len(records) == len(plan.events)
    for event in plan.events:
        (line,) = (line for line in records if line.strip().startswith(f"event{event.id}."))
        assert f"# behind {names.get(event.after, 'what the caller')}" in line


def test_the_wrapper_is_the_one_that_was_proved(saved):
    assert verify((saved / "wrapper.py").read_text()) == []


def test_the_table_has_every_kernel(saved):
    text = (saved / "table.txt").read_text()
    assert all(name in text for name in ("indexer.wk", "indexer.wq", "q_b", "predicted:"))


def test_the_timeline_has_every_kernel(saved):
    text = (saved / "timeline.json").read_text()
    assert all(name in text for name in ("indexer.wk", "indexer.wq", "q_b"))


def test_a_report_is_saved_twice_into_one_folder(saved):
    before = (saved / "report.json").read_text()
    report().save(saved)
    assert (saved / "report.json").read_text() == before


def test_the_text_has_verdict_table_and_launches():
    lines = str(report()).splitlines()
    assert lines[0].endswith(": clean")
    assert any("speed-up" in line for line in lines)
    assert "launches: 5 serial, 5 on streams; launched by the host serially, on streams in CUDA graphs" in lines


def test_a_graph_that_stays_serial_has_its_reason_and_no_empty_files(tmp_path):
    serial = captured("only_views").report
    written = {path.name for path in serial.save(tmp_path).iterdir()}
    assert "report.json" in written
    assert written.isdisjoint(FILES - {"report.json", "graph_serial.py", "report.html"})
    data = parsed(tmp_path)
    assert (data["verdict"], data["predicted_us"], data["regions"], data["streams"]) == ("serial", None, [], 1)
    assert data["reason"] in str(serial)


def test_a_graph_that_gains_too_little_says_nothing_of_how_it_is_launched():
    little = explain(*module_and_inputs("diamond"), target="h200", options={**FREE_EVENTS, "min_gain": 1.0})
    assert (little.verdict, little.plan.streams > 1) == ("serial", True)
    assert "launched by the host" not in str(little)


def test_of_several_graphs_the_report_is_on_the_one_with_most_kernels():
    class Broken(torch.nn.Module):
        def forward(self, x):
            y = x @ x
            torch._dynamo.graph_break()
            return y @ x, y.t() @ x

    inputs = (torch.empty(8, 8),)
    assert [o.report.kernels_serial for o in capture(Broken(), inputs, "h200", FREE_EVENTS)] == [1, 2]
    assert explain(Broken(), inputs, "h200", FREE_EVENTS).kernels_serial == 2
