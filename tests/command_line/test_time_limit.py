"""Check a limit on the time that a block may take."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from graphstreams.command_line.guards import time_limit


def endless() -> None:
    with time_limit(0.05):
        while True:
            pass


def test_work_without_end_is_stopped() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match="it takes longer than 0 s"):
        endless()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_handlers_of_errors_do_not_swallow_it() -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                while True:
                    pass

    with pytest.raises(TimeoutError), time_limit(0.05):
        stubborn()


def test_what_is_done_in_time_is_left_alone() -> None:
    with time_limit(60):
        done = True
    assert done
    with pytest.raises(KeyError), time_limit(60):
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_other_threads_have_no_limit() -> None:
    found: list[float] = []

    def work() -> None:
        with time_limit(60):
            found.append(signal.getitimer(signal.ITIMER_REAL)[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0.0]
