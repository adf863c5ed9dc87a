"""Limit the time that reading a file may take."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class _Stop(BaseException):
    """The exception that stops the work. It is no Exception, so that no handler of errors catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the work in this context after so many seconds.

    There is no limit in threads other than the main one, or on systems without alarm signals. Raises TimeoutError.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _Stop

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again and again, because Python drops what is raised in a finalizer
    try:
        yield
    except _Stop:
        raise TimeoutError(f"it takes longer than {seconds:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
