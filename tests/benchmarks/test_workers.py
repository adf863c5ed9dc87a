"""Check workers that answer, fail, get lost and take too long; each is a process that does just that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workers import Lost, RestartedWorker, Worker, environment_of, one_line

from tests.support.paths import EXAMPLES
from tests.support.processes import environment

PROGRAM = """
import os, time
from workers import serve
def handle(request):
    print("this is no answer")
    if request["do"] == "sleep":
        time.sleep(60)
    if request["do"] == "exit":
        os._exit(7)
    if request["do"] == "raise":
        raise ValueError(request["text"])
    return {"twice": 2 * request["number"]}
serve(handle)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker([sys.executable, "-c", PROGRAM], environment(), tmp_path / "log")
    yield made
    made.close()


def test_answers_come_back_and_prints_do_not(worker: Worker, tmp_path: Path) -> None:
    assert [worker.ask({"do": "double", "number": n}, 30)["twice"] for n in (3, 4)] == [6, 8]
    worker.close()
    assert (tmp_path / "log").read_text().splitlines() == ["this is no answer"] * 2


def test_a_failure_is_an_answer_and_the_next_question_is_answered(worker: Worker) -> None:
    assert worker.ask({"do": "raise", "text": "too\nlate"}, 30) == {"failed": "ValueError: too late"}
    assert worker.ask({"do": "double", "number": 1}, 30) == {"twice": 2}


@pytest.mark.parametrize("sign", ["CUDA error: misaligned address", "CUDA error: an illegal memory access was encountered"])
def test_an_error_that_leaves_nothing_working_loses_the_worker(worker: Worker, sign: str) -> None:
    with pytest.raises(Lost, match=sign):
        worker.ask({"do": "raise", "text": sign}, 30)
    with pytest.raises(Lost):
        worker.ask({"do": "double", "number": 1}, 30)


def test_an_end_without_an_answer_is_told_with_its_status(worker: Worker) -> None:
    with pytest.raises(Lost, match="status 7"):
        worker.ask({"do": "exit"}, 30)


def test_an_answer_that_takes_too_long_is_not_waited_for(worker: Worker) -> None:
    worker.ask({"do": "double", "number": 1}, 30)
    with pytest.raises(Lost, match="no answer in 0 s"):
        worker.ask({"do": "sleep"}, 0.2)


def test_a_lost_worker_is_followed_by_another(tmp_path: Path) -> None:
    worker = RestartedWorker(
        lambda: Worker([sys.executable, "-c", "print(input(), flush=True); input()"], dict(os.environ), tmp_path / "log")
    )
    assert not worker.alive
    for _ in range(2):
        assert worker.ask({"answer": 1}, 30) == {"answer": 1}
        assert worker.alive
        with pytest.raises(Lost, match="status 0"):
            worker.ask({}, 30)
        assert not worker.alive
    worker.close()


def test_a_checkouts_package_and_our_examples_come_first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/other")
    found = environment_of(tmp_path, {"NAME": "value"})
    assert found["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(EXAMPLES), "/other"]
    assert found["NAME"] == "value"
    monkeypatch.delenv("PYTHONPATH")
    assert environment_of(tmp_path)["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(EXAMPLES)]


def test_long_texts_become_a_line() -> None:
    assert one_line("a\n  b") == "a b"
    assert one_line("abcdefgh", 6) == "abc..."


def test_an_answer_that_is_none_loses_the_worker(tmp_path: Path) -> None:
    made = Worker([sys.executable, "-c", "input(); print('hello')"], dict(os.environ), tmp_path / "log")
    with pytest.raises(Lost, match="hello"):
        made.ask({}, 30)
    made.close()
