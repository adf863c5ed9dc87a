"""Check the table of misaligned inputs: its cells, what a lost worker costs, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import alignment
import pytest
import torch
from alignment import WAYS, Cell, CellRunner, groups, table
from misaligned import DTYPES, KINDS, Module, compute_dtype, others_of, subject_of
from workers import Lost

CELL = Cell("cache write", "bf16", 0, 1, "direct")


class Answers:
    """A worker with prepared answers by side, way and offset in the call; "lost" ends it."""

    def __init__(self, answers: Mapping[tuple[str, str, int], Any]) -> None:
        self.answers, self.asked, self.started = answers, [], 0

    def start(self) -> Answers:
        self.started += 1
        return self

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> Any:
        key = request["side"], request["way"], request["called_at"]
        self.asked.append(key)
        answer = self.answers.get(key, {"equal": True, "told": "clean"})
        if answer == "lost":
            raise Lost("CUDA error: misaligned address")
        return answer

    def close(self) -> None:
        pass


def statuses(answers: Answers, ways: tuple[str, ...], offsets: tuple[int, ...] = (0, 1, 3)) -> list[str]:
    cells = [replace(CELL, way=way, called_at=offset) for way in ways for offset in offsets]
    return [cell.status for cell in CellRunner(answers.start).run(cells)]


def test_serial_is_asked_once_for_all_ways_that_it_runs_in_too() -> None:
    answers = Answers({})
    assert statuses(answers, ("direct", "StreamPass"), (0, 1)) == ["equal"] * 4
    serial = [key for key in answers.asked if key[0] == "serial"]
    assert serial == [("serial", "direct", 0), ("serial", "direct", 1)]


def test_a_lost_worker_is_replaced_and_costs_the_rest_of_its_way_only() -> None:
    answers = Answers({("ours", "direct", 1): "lost"})
    assert statuses(answers, ("direct", "captured by hand")) == ["equal", "lost", "not run", "equal", "equal", "equal"]
    assert answers.started == 2


def test_where_serial_is_lost_ours_is_not_asked() -> None:
    answers = Answers({("serial", "direct", 1): "lost"})
    assert statuses(answers, ("direct",)) == ["equal", "serial fails", "not run"]
    assert ("ours", "direct", 1) not in answers.asked


def test_other_bits_and_what_is_raised_are_told() -> None:
    answers = Answers(
        {("ours", "direct", 0): {"equal": False, "told": ""}, ("ours", "direct", 1): {"failed": "ValueError: no"}}
    )
    assert statuses(answers, ("direct",)) == ["differs", "raised", "equal"]


def test_there_is_a_group_for_each_kind_dtype_and_offset_of_the_compile() -> None:
    found = groups(list(KINDS))
    assert len({(cells[0].kind, cells[0].dtype, cells[0].compiled_at) for cells in found}) == len(found)
    (cells,) = [c for c in found if (c[0].kind, c[0].dtype, c[0].compiled_at) == ("read by one kernel", "fp8", 1)]
    assert [(cell.way, cell.called_at) for cell in cells] == [(way, offset) for way in WAYS for offset in (0, 1, 3, 8)]
    parameters = [cell for cells in found for cell in cells if cell.kind == "parameter"]
    assert all(cell.compiled_at == cell.called_at for cell in parameters)
    assert len(parameters) == 2 * 4 * len(WAYS)


def test_the_table_counts_right_cells_and_names_the_others() -> None:
    cells = [
        replace(CELL, called_at=0, status="equal"),
        replace(CELL, called_at=1, status="lost", told="CUDA error"),
        replace(CELL, called_at=3, status="serial fails", told="lost: CUDA error"),
    ]
    text = table(cells, ["direct"])
    assert "| cache write | bf16    | 2/3; 0>1 lost; 0>3 serial fails |" in text
    assert "- direct: lost: CUDA error" in text
    assert [cell.right for cell in cells] == [True, False, True]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_runs_in_eager_code_at_every_offset_with_the_same_results(name: str) -> None:
    kind = KINDS[name]
    for dtype in (DTYPES[key] for key in kind.dtypes):
        results = []
        for offset in (0, 1, 3, 8):
            subject = subject_of(kind, dtype, offset, 5, "cpu")
            assert subject.storage_offset() == offset
            assert (subject.stride(0) == kind.row) if kind.row else subject.is_contiguous()
            torch.manual_seed(0)
            module = Module(kind, compute_dtype(dtype), "cpu", subject if kind.parameter else None)
            with torch.no_grad():
                outputs = module(None if kind.parameter else subject, *others_of(compute_dtype(dtype), 5, "cpu"))
            results.append([value.float() for value in (*outputs, subject)])
        for other in results[1:]:
            assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert alignment.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_whole_course_on_the_cpu_with_prepared_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers({("ours", "StreamPass", 3): {"failed": "ValueError: no"}})
    monkeypatch.setattr(alignment, "Worker", lambda *_: answers.start())
    arguments = ["--device", "cpu", "--kinds", "only viewed", "--workers", "1", "--out", str(tmp_path)]
    assert alignment.main(arguments) == 1
    cells = json.loads((tmp_path / "alignment.json").read_text())["cells"]
    assert len(cells) == 2 * 2 * 4 * 3  # dtypes, offsets of the compile and of the call, ways
    assert {cell["way"] for cell in cells if cell["status"] == "raised"} == {"StreamPass"}
    assert "0>3 raised; 1>3 raised" in (tmp_path / "alignment.md").read_text()


def test_what_fails_in_the_benchmark_itself_is_no_right_cell() -> None:
    def start() -> Any:
        raise OSError("no more processes")

    found = CellRunner(start).all([CELL, replace(CELL, called_at=3)])
    assert [(cell.status, cell.told) for cell in found] == [("not run", "OSError: no more processes")] * 2
    assert not any(cell.right for cell in found)
