"""Check that the client goes on if a worker process answers, talks too much, fails or says nothing."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from graphstreams.autotuning.matmul_precision import precisions
from graphstreams.autotuning.synthetic_inputs import Layout
from graphstreams.autotuning.worker import WorkerClient
from graphstreams.errors import Unmeasurable

ASKED = [Layout((8, 3), (3, 1), "bfloat16", "cuda:0"), 5]
ANSWERS = """
import json, sys, torch
job = torch.load(sys.argv[1], weights_only=True)
print("something of a library")
for line in sys.stdin:
    layout, number = json.loads(line)
    print("gain", job["share"] + layout["shape"][0] + number, flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., WorkerClient]]:
    """Starts workers that run a program."""
    started: list[WorkerClient] = []

    def start(program: str, patience: float = 60.0) -> WorkerClient:
        path = tmp_path / "worker.py"
        path.write_text(program)
        started.append(WorkerClient({"share": 0.25, "weight": torch.ones(2)}, [sys.executable, str(path)], patience))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_each_question_gets_its_answer_from_one_process_of_which_nothing_is_left(worker: Callable[..., WorkerClient]) -> None:
    asked = worker(ANSWERS)
    assert asked.gain(ASKED) == 13.25
    first = asked._process
    assert asked.gain([*ASKED[:1], 7]) == 15.25
    assert asked._process is first
    assert first is not None and asked._folder is not None
    folder = Path(asked._folder.name)
    assert folder.exists()
    asked.close()
    assert first.poll() is not None
    assert not folder.exists()


def test_a_worker_that_fails_is_named_and_not_asked_again(worker: Callable[..., WorkerClient]) -> None:
    asked = worker("import sys\nsys.stdin.readline()\nraise IndexError('out of bounds')")
    for _ in range(2):
        with pytest.raises(Unmeasurable, match="ended: IndexError: out of bounds"):
            asked.gain(ASKED)
    assert asked._process is None and asked._folder is None


def refusing(error: Exception) -> Callable[..., None]:
    """Return a function that raises `error` whatever it is called with."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("tempfile.TemporaryDirectory", OSError(28, "No space left on device")),
        ("torch.save", RuntimeError("unexpected pos 64 vs 0\nof the writer")),
        ("subprocess.Popen", BlockingIOError(11, "Resource temporarily unavailable")),
        ("threading.Timer.start", RuntimeError("can't start new thread")),
    ],
)
def test_what_cannot_be_started_is_named_and_not_tried_again(
    function: str, error: Exception, worker: Callable[..., WorkerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(function, refusing(error))
        asked = worker(ANSWERS)
        with pytest.raises(Unmeasurable, match="cannot be started") as raised:
            asked.gain(ASKED)
    assert type(error).__name__ in str(raised.value) and str(error).splitlines()[0] in str(raised.value)
    with pytest.raises(Unmeasurable, match="cannot be started"):
        asked.gain(ASKED)
    assert asked._process is None and asked._folder is None


def test_a_command_that_does_not_exist_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(WorkerClient({}, command=[str(tmp_path / "nonexistent")])) as asked:
        for _ in range(2):
            with pytest.raises(Unmeasurable, match="cannot be started: FileNotFoundError"):
                asked.gain([])
        assert list(tmp_path.iterdir()) == []


def test_arguments_that_cannot_be_written_down_are_named(worker: Callable[..., WorkerClient]) -> None:
    with pytest.raises(Unmeasurable, match="TypeError: Object of type complex"):
        worker(ANSWERS).gain([1j])


def test_a_worker_that_is_killed_is_named(worker: Callable[..., WorkerClient]) -> None:
    asked = worker("import os, signal, sys\nsys.stdin.readline()\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Unmeasurable, match="it said nothing"):
        asked.gain(ASKED)


def test_a_worker_that_hangs_is_ended(worker: Callable[..., WorkerClient]) -> None:
    asked = worker("import time\nwhile True: time.sleep(1)", patience=1.0)
    with pytest.raises(Unmeasurable, match="no answer in 1 s"):
        asked.gain(ASKED)


def test_without_a_gpu_the_real_worker_says_why(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with (
        closing(WorkerClient({"device": 0, "precisions": precisions(), "source": ""})) as asked,
        pytest.raises(Unmeasurable, match="Error"),
    ):
        asked.gain(ASKED)
