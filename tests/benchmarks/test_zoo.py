"""Check the runner of the models of public libraries: workers that crash or take too long, resuming, the table, the status."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo import __main__ as command
from benchmarks.zoo import run, worker
from benchmarks.zoo.case import Case, Dynamic
from benchmarks.zoo.cases import CASES
from benchmarks.zoo.run import Way, last_line, line, planned, run_all, stored
from benchmarks.zoo.table import document, fault, launches_lost, launches_saved, row, summary, table, write
from graphstreams.testing.equal_on_cpu import equal_as_captured

PROGRAM = """
import os, sys, time
from benchmarks.workers import serve
def handle(request):
    if request["case"] == "slow":
        time.sleep(60)
    if request["case"] == "crash":
        print("the last word\\n", file=sys.stderr, flush=True)
        os._exit(3)
    if request["case"] == "raise":
        raise ValueError("no such case")
    return {"case": request["case"], "verdict": "clean", "launches": [3, 3], "reason": str(os.environ["CUDA_VISIBLE_DEVICES"])}
serve(handle)
"""
WAY = Way(limit=30, worker=("-c", PROGRAM))
PLACE = {"commit": "abc", "torch": "2.15.0", "triton": "3.9.0", "python": "3.11", "date": "2026-11-30", "command": "zoo"}


def record(case: str = "one", verdict: str = "clean", **fields: Any) -> dict[str, Any]:
    graphs = [{"verdict": verdict, "launches": fields.get("launches", [3, 3]), "stage": "", "reason": ""}]
    return {"case": case, "library": "timm", "version": "1.0", "verdict": verdict, "reason": "", "launches": [3, 3],
            "predicted_us": [20.0, 10.0], "extra_memory": 2**20, "graphs": graphs, "holding": [], "notes": [], "bits": "equal",
            "seconds": {"build": 1.0, "plan": 2.0}, **fields}  # fmt: skip


def test_a_worker_answers_without_a_gpu_in_sight() -> None:
    assert planned("one", WAY) == {"case": "one", "verdict": "clean", "launches": [3, 3], "reason": ""}


def test_a_worker_that_ends_makes_a_record_with_its_status_and_its_last_line() -> None:
    found = planned("crash", WAY)
    assert found["verdict"] == "crashed" and found["stage"] == "process"
    assert "status 3: the last word" in found["reason"]


def test_an_error_in_a_worker_makes_a_record() -> None:
    found = planned("raise", WAY)
    assert (found["verdict"], found["reason"]) == ("crashed", "ValueError: no such case")


def test_a_worker_that_takes_too_long_is_ended() -> None:
    found = planned("slow", Way(limit=2, worker=("-c", PROGRAM)))
    assert found["verdict"] == "too slow" and "2 s" in found["reason"]


def test_the_last_line_of_a_log_is_the_last_that_has_a_text(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\nsecond\n \n")
    assert last_line(tmp_path / "log") == "second"
    assert last_line(tmp_path / "none") == ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for workers, and return the cases that they are asked for. "bad" crashes."""
    names: list[str] = []

    def answer(name: str, way: Way) -> dict[str, Any]:
        names.append(name)
        return record(name, "crashed" if name == "bad" else "clean", reason="it fell" if name == "bad" else "")

    monkeypatch.setattr(run, "planned", answer)
    return names


def ran(names: list[str], stem: Path, place: dict[str, str] = PLACE, fresh: bool = False) -> tuple[list[Any], list[str]]:
    said: list[str] = []
    return run_all(names, WAY, stem, place, fresh, write, said.append), said


def test_every_record_is_kept_and_a_second_run_plans_what_is_missing_or_crashed(tmp_path: Path, asked: list[str]) -> None:
    stem = tmp_path / "new" / "zoo"
    _, said = ran(["one", "bad"], stem)
    assert sorted(asked) == ["bad", "one"] and said[-1].startswith("[2/2] ")
    asked.clear()
    records, said = ran(["one", "two", "bad"], stem)
    assert asked == ["two", "bad"] and said[0] == "1 of 3 cases are kept from an earlier run"
    assert [each["case"] for each in records] == ["one", "two", "bad"]
    assert len(json.loads(stem.with_suffix(".json").read_text())["records"]) == 3


@pytest.mark.parametrize("name", ["commit", "torch", "triton"])
def test_records_of_another_commit_or_version_are_not_kept(tmp_path: Path, asked: list[str], name: str) -> None:
    ran(["one"], tmp_path / "zoo")
    assert stored(tmp_path / "zoo.json", PLACE).keys() == {"one"}
    assert stored(tmp_path / "zoo.json", {**PLACE, name: "other"}) == {}


def test_a_fresh_run_keeps_nothing(tmp_path: Path, asked: list[str]) -> None:
    ran(["one", "two"], tmp_path / "zoo")
    ran(["one"], tmp_path / "zoo", fresh=True)
    assert stored(tmp_path / "zoo.json", PLACE).keys() == {"one"}
    assert asked == ["one", "two", "one"]


@pytest.mark.parametrize(("fields", "text"), [
    ({}, ""),
    ({"verdict": "serial", "launches": [3, 0]}, ""),
    ({"verdict": "refused", "launches": [3, 5]}, ""),
    ({"bits": "failed: no such kernel on the CPU"}, ""),
    ({"bits": "differs: 1 of 1 graphs"}, "bits: differs: 1 of 1 graphs"),
    ({"launches": [3, 4]}, "graph 1 has 3 launches, and 4 on streams"),
    ({"launches": [3, 2]}, ""),
    ({"verdict": "crashed", "reason": "it fell"}, "crashed: it fell"),
    ({"verdict": "too slow", "reason": "no answer in 2 s"}, "too slow: no answer in 2 s"),
    ({"verdict": "not built", "reason": "ImportError: no timm"}, "not built: ImportError: no timm"),
])  # fmt: skip
def test_faults_are_crashes_lost_launches_and_other_bits(fields: dict[str, Any], text: str) -> None:
    assert fault(record(**fields)) == text


def test_a_lost_launch_is_found_in_every_graph_of_a_call() -> None:
    graphs = [{"verdict": "clean", "launches": [9, 9]}, {"verdict": "clean", "launches": [2, 4]}]
    assert launches_lost(record(graphs=graphs)) == "graph 2 has 2 launches, and 4 on streams"


def test_fewer_launches_are_told_with_one_that_is_saved() -> None:
    graphs = [
        {"verdict": "clean", "launches": [9, 8], "differences": ["fill is launched by the serial code and not on streams"]}
    ]
    text = "graph 1 has 9 launches, and 8 on streams; fill is launched by the serial code and not on streams"
    assert launches_saved(record(graphs=graphs)) == text
    assert row(record(graphs=graphs))[-1] == f"{text}; 1 launches are in one body only"
    assert "with more launches on streams: 0, with fewer: 1" in summary([record(graphs=graphs)]).lower()


def test_a_row_tells_gain_memory_and_graphs() -> None:
    assert row(record()) == ["one", "clean", "3 > 3", "20 > 10", "2.000x", "", "1.0", "1/1", "3", "equal", ""]


def test_a_row_of_a_serial_case_tells_why_and_what_holds_the_order() -> None:
    cells = row(record(verdict="serial", reason="one | chain", holding=["a: a collective", "b: another"], extra_memory=None))
    assert cells[2] == "3" and cells[6] == ""
    assert cells[-1] == "one \\| chain; 2 kernels hold the order: a: a collective"


def test_a_row_of_a_crash_has_what_is_known() -> None:
    bare = {"case": "one", "verdict": "crashed", "reason": "it fell", "stage": "process"}
    assert row(bare) == ["one", "crashed", "", "", "", "", "", "", "", "", "it fell"]
    assert line(bare) == "one: crashed; it fell"


def test_the_summary_counts_and_names_faults() -> None:
    records = [record(), record("two", "serial"), record("three", "crashed", reason="it fell")]
    text = summary(records)
    assert text.startswith("3 cases: 1 clean, 1 serial, 1 crashed. With more launches on streams: 0, with fewer: 0.\n")
    assert "\nBits of the tiny sizes: 3 equal." in text
    assert text.endswith("Faults:\n- three: crashed: it fell")
    assert summary([record()]).endswith("No faults.")


def test_the_document_has_command_versions_and_every_case() -> None:
    text = document({**PLACE, "records": [record(), record("two")]})
    assert "`zoo`" in text and "torch 2.15.0" in text and "timm 1.0" in text and "Commit abc" in text
    assert table([record("two")]).splitlines()[-1] in text


def test_cases_are_of_many_libraries_and_need_none_to_be_named() -> None:
    assert len(CASES) >= 45 and len({case.library for case in CASES.values()}) >= 5
    quick = Counter(case.library for case in CASES.values() if case.quick)
    assert sum(quick.values()) == 12 and len(quick) >= 5
    assert sum(len(file.CASES) for file in command_files()) == len(CASES), "two cases have one name"


def command_files() -> Any:
    from benchmarks.zoo import cases

    return cases._FILES


def test_cases_are_chosen_by_their_names_or_parts_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--cases", "llama-decode", "diffusers-s"]) == 0
    assert capsys.readouterr().out.split() == ["llama-decode", "diffusers-sd3"]
    with pytest.raises(SystemExit) as stop:
        command.main(["--cases", "nothing"])
    assert stop.value.code == 2


@pytest.mark.parametrize(("case", "status"), [("llama-decode", 0), ("bad", 1)])
def test_the_status_tells_of_faults(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, case: str, status: int
) -> None:
    monkeypatch.setitem(CASES, "bad", CASES["llama-decode"])
    assert command.main(["--cases", case, "--out", str(tmp_path)]) == status
    assert (tmp_path / "zoo.md").exists()


def test_a_table_of_what_is_kept_plans_nothing(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "place_of_this_run", lambda: PLACE)
    ran(["llama-decode"], tmp_path / "zoo")
    asked.clear()
    assert command.main(["--kept", "--cases", "llama-decode", "bert", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "zoo.md").read_text()
    assert asked == [] and "| llama-decode |" in text
    assert "Not planned: bert" in text


class Branches(nn.Module):
    """Two products that need nothing of each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.relu(self.first(x)), torch.sigmoid(self.second(x))], -1)


@pytest.mark.parametrize(("limits", "text"), [
    ((0, None), "s0: any"), ((8, None), "s0 from 8"), ((0, 64), "s0 to 64"), ((8, 64), "s0 8 to 64"), ((0, 0), "s0 to 0"),
])  # fmt: skip
def test_a_row_of_a_case_with_a_dynamic_size_tells_where_the_serial_code_takes_over(
    limits: tuple[int, int | None], text: str
) -> None:
    smallest, largest = limits
    threshold = {"size": "s0", "smallest": smallest, "largest": largest, "reason": "solved"}
    assert row(record(threshold=threshold))[5] == text


def test_inputs_of_another_size_are_cut_or_repeated_and_marked() -> None:
    dynamic = Dynamic(((0, 1), (1, 0)), (2, 5))
    inputs = torch.arange(6).view(2, 3), torch.arange(3), torch.arange(4)
    one, other, same = dynamic.resized(inputs, 5)
    assert one.tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]] and other.tolist() == [0, 1, 2, 0, 1] and len(same) == 4
    assert one._dynamo_dynamic_indices == {1} and other._dynamo_dynamic_indices == {0}  # type: ignore[attr-defined]
    assert dynamic.resized(inputs, 2)[1].tolist() == [0, 1]


def test_the_batch_of_a_dlrm_has_one_index_in_each_bag() -> None:
    case = CASES["dlrm-kaggle-dynamic-batch"]
    assert case.dynamic is not None
    _, inputs = case.make(tiny=False)
    for batch in (1, 9):
        _, offsets, *indices = case.dynamic.resized(inputs, batch)
        assert offsets.tolist() == [list(range(batch))] * 26 and all(own.shape == (batch,) for own in indices)


def test_a_worker_plans_a_dynamic_size_and_compares_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def equal(module: Any, inputs: Any, compilations: Any) -> list[bool]:
        compared.append(len(inputs[0]))
        return equal_as_captured(module, inputs, compilations)

    monkeypatch.setattr(worker, "equal_as_captured", equal)
    monkeypatch.setitem(CASES, "dynamic", Case("dynamic", "torch", branches, dynamic=Dynamic(((0, 0),), (3, 70))))
    found = worker.answer({"case": "dynamic"})
    assert (found["verdict"], found["bits"], compared) == ("clean", "equal", [4, 3, 70])
    assert found["threshold"]["size"].startswith("s") and found["threshold"]["largest"] != 0
    json.dumps(found)


def branches(tiny: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    size = 16 if tiny else 1024
    return Branches(size), (torch.randn(4, size),)


def test_a_worker_plans_the_full_size_and_compares_the_tiny_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "branches", Case("branches", "torch", branches, meta=True))
    found = worker.answer({"case": "branches"})
    assert found["verdict"] in ("clean", "serial") and found["graphs"][0]["launches"][0] >= 2
    assert found["bits"] == "equal" or found["bits"].startswith("not rewritten")
    assert found["version"] == torch.__version__.split("+")[0]
    json.dumps(found)


def test_a_case_that_cannot_be_built_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(tiny: bool) -> Any:
        raise ImportError("no such library")

    monkeypatch.setitem(CASES, "missing", Case("missing", "no-such-library", missing))
    found = worker.answer({"case": "missing"})
    assert (found["verdict"], found["reason"], found["version"]) == ("not built", "ImportError: no such library", "")
    assert "bits" not in found


def test_a_case_makes_the_same_twice() -> None:
    case = Case("branches", "torch", branches)
    (one, (x,)), (other, (y,)) = case.make(tiny=True), case.make(tiny=True)
    assert torch.equal(x, y) and torch.equal(one.first.weight, other.first.weight)  # type: ignore[union-attr,arg-type]
    assert not one.training and not one.first.weight.requires_grad  # type: ignore[union-attr]
