"""Check how workers are prepared and asked: all prepared, one measured at a time, each fault told of its own model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lane
from benchmarks.lane import Lane
from benchmarks.workers import Lost


class FakeWorker:
    """Stands in for a worker's process: what it is prepared with says how it behaves."""

    made: list[FakeWorker]

    def __init__(self, *_: Any) -> None:
        self.asked: list[Any] = []
        self.closed = 0
        self.made.append(self)

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        if request["do"] == "prepare":
            self.name = request["name"]
            return {"failed": "no such model"} if self.name == "unknown" else {}
        self.asked.append(request["mode"])
        if self.name == "slow":
            raise Lost(f"no answer in {timeout_s:.0f} s")
        return {"failed": "ValueError: no"} if self.name == "wrong" else {"answer": request["mode"]}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWorker]:
    monkeypatch.setattr(FakeWorker, "made", [], raising=False)
    monkeypatch.setattr(lane, "Worker", FakeWorker)
    return FakeWorker.made


def answers(names: list[str], folder: Path, budget: float = 60.0) -> list[tuple[str, str, dict[str, Any]]]:
    found: list[tuple[str, str, dict[str, Any]]] = []
    requests = {name: {"do": "prepare", "name": name} for name in names}
    measurements = [{"do": "measure", "mode": mode} for mode in ("one", "two")]
    lane.run(Lane("module", folder, jobs=1, limit_s=7), requests, measurements, budget,
             lambda name, request, answer: found.append((name, request["mode"], answer)))  # fmt: skip
    return found


def test_each_measurement_is_made_of_all_before_the_next(workers: list[FakeWorker], tmp_path: Path) -> None:
    found = answers(["a", "b"], tmp_path)
    assert [(name, mode) for name, mode, _ in found] == [("a", "one"), ("b", "one"), ("a", "two"), ("b", "two")]
    assert all(answer["answer"] == mode and answer["seconds"] >= 0 for _, mode, answer in found)
    assert [worker.closed for worker in workers] == [1, 1]


def test_a_fault_is_told_of_each_measurement_and_the_others_go_on(workers: list[FakeWorker], tmp_path: Path) -> None:
    found = {(name, mode): answer for name, mode, answer in answers(["unknown", "slow", "wrong", "a"], tmp_path)}
    assert {found["unknown", mode]["failed"] for mode in ("one", "two")} == {"prepare: no such model"}
    assert all(found["slow", mode]["failed"].startswith("measure: no answer in 7 s") for mode in ("one", "two"))
    assert found["wrong", "two"]["failed"] == "measure: ValueError: no" and found["a", "two"]["answer"] == "two"
    assert workers[1].asked == ["one"] and workers[2].asked == ["one", "two"]
    assert all(worker.closed for worker in workers)


def test_what_would_begin_too_late_is_not_measured(workers: list[FakeWorker], tmp_path: Path) -> None:
    assert [answer["failed"] for _, _, answer in answers(["a"], tmp_path, budget=-1.0)] == ["not measured: -1 s were over"] * 2
    assert workers[0].asked == [] and workers[0].closed == 1
