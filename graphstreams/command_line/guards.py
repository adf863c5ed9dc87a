"""Guard a command against what it runs: how long that takes, what torch writes meanwhile, what the user's code raises."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from graphstreams.messages import shown, with_type


def guarded(failure: str, run: Callable[[], Any]) -> Any:
    """Return what `run`, which calls the user's code, returns.

    Raises ValueError, which begins with `failure`, if that code raises or exits. KeyboardInterrupt passes.
    """
    try:
        return run()
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise ValueError(f"{failure}: it exits with {shown(error.code)}") from error
    except BaseException as error:
        raise ValueError(f"{failure}: {with_type(error)}") from error


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


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold torch's log and all warnings back within this context: show them afterwards, or drop them if it raises.

    Beside an error torch logs tracebacks of its own. With TORCH_LOGS set nothing is held back.
    """
    if os.environ.get("TORCH_LOGS"):
        yield
        return
    # Not the structured trace, which goes to a file.
    names = [name for name in logging.root.manager.loggerDict if f"{name}.".startswith("torch.") and name != "torch.__trace"]
    held: dict[logging.Handler, list[logging.LogRecord]] = {h: [] for name in names for h in logging.getLogger(name).handlers}
    filters = {handler: partial(_passes, records) for handler, records in held.items()}
    for handler, passes in filters.items():
        handler.addFilter(passes)
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield
    finally:
        for handler, passes in filters.items():
            handler.removeFilter(passes)
    for warning in warned:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    for handler, records in held.items():
        for record in records:
            handler.handle(record)


def _passes(held: list[logging.LogRecord], record: logging.LogRecord) -> bool:
    """Return whether a record is not of torch, because others may log to the same handler. Those of torch are held."""
    if record.name.startswith("torch"):
        held.append(record)
        return False
    return True
