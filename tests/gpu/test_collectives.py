"""Check on two GPUs that ranks with any plans compute serial's bits, and that none waits for another for ever."""

from __future__ import annotations

import multiprocessing
import queue
import socket
import time
from typing import Any

import pytest
import torch

from tests.support import ranks_on_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
SECONDS = 240  # in which both ranks have to be done; without a hang they take a fraction of it


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what both ranks found. All of it is run once, because NCCL takes seconds to start."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    folder, port = str(tmp_path_factory.mktemp("ranks")), _free_port()
    processes = [context.Process(target=ranks_on_gpu.main, args=(rank, port, folder, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    ends = time.monotonic() + SECONDS
    try:
        while len(found) < 2:
            rank, outcome = results.get(timeout=max(0.1, ends - time.monotonic()))
            assert isinstance(outcome, dict), f"rank {rank} failed:\n{outcome}"
            found[rank] = outcome
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0, 0], "the ranks do not end"
    except queue.Empty:
        pytest.fail(f"after {SECONDS} s only the ranks {sorted(found)} are done: the others hang")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return [found[rank] for rank in range(2)]


def test_two_ranks_with_one_plan_have_serial_bits(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        report = rank["reports"]["two"]
        assert (report["verdict"], report["streams"]) == ("clean", 2), report
        assert rank["same plan"]


def test_two_ranks_with_different_plans_have_serial_bits_in_ten_thousand_replays(ranks: list[dict[str, Any]]) -> None:
    plans = [rank["reports"]["own"] for rank in ranks]
    assert [plan["verdict"] for plan in plans] == ["clean", "clean"], plans
    assert plans[0]["plan"] != plans[1]["plan"] and plans[0]["streams"] < plans[1]["streams"]
    assert [rank["own plans"] for rank in ranks] == [True, True]


@pytest.mark.parametrize("which", ["one serial", "the other serial"])
def test_a_rank_on_streams_and_a_serial_one_have_serial_bits(ranks: list[dict[str, Any]], which: str) -> None:
    assert [rank[which] for rank in ranks] == [True, True]


def test_kernels_are_timed_without_the_collectives(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        report = rank["reports"]["timed"]
        assert report["costs"] == "measured, but for collectives", report
        assert any("timed without them" in note for note in report["notes"])
        assert report["measured"]["tried"] > 1 and report["measured"]["played_us"] > 0
        assert not report["measured"]["compiled_us"]
        assert rank["direct"]


@pytest.mark.parametrize("name", ranks_on_gpu.SETTINGS)
def test_settings_that_join_or_move_collectives_leave_serial_bits(ranks: list[dict[str, Any]], name: str) -> None:
    for rank in ranks:
        found = rank["settings"][name]
        assert found["equal"], found
        assert found["verdict"] == "clean" or found["reason"], found
