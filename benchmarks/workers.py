"""Run processes that measure on request: a line of JSON in, a line of JSON out.

With them two versions of the package take turns on one GPU, and a process that CUDA has failed costs one answer only.
This module imports nothing of the package, because a worker may have another version of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]
FATAL = ("CUDA error", "device-side assert", "illegal memory access", "misaligned address")  # nothing works after these


class Lost(RuntimeError):
    """The error of a worker that gives no more answers. The message says why."""


class Worker:
    """A child process that answers requests until it is lost or closed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start `command`; what it prints goes to the end of `log`."""
        self._log = log.open("a", encoding="utf-8")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(list(command), env=dict(environment), stdin=pipe, stdout=pipe, stderr=self._log)
        self._rest = b""

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer to a request. Raises Lost if the process ends, says that it is lost, or takes too long."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Lost(self._ended()) from None
        line = self._line(timeout_s)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise Lost(f"it answered {line[:60]!r}") from None
        if "lost" in answer:
            raise Lost(answer["lost"])
        return answer

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        until = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise Lost(f"no answer in {timeout_s:.0f} s")
            if not (data := os.read(self._process.stdout.fileno(), 65536)):
                raise Lost(self._ended())
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self) -> str:
        try:
            return f"the process ended with status {self._process.wait(5)}"
        except subprocess.TimeoutExpired:
            return "the process closed its output"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):  # a request that could not be written
                    stream.close()


class RestartedWorker:
    """A worker that starts with the first request, and again with the first one after it was lost."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        """`start` returns a new Worker."""
        self._start = start
        self._worker: Worker | None = None

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer to a request. Raises Lost if there is none."""
        if self._worker is None:
            self._worker = self._start()
        try:
            return self._worker.ask(request, timeout_s)
        except Lost:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Return whether a process is running."""
        return self._worker is not None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def serve(handler: Handler) -> None:
    """Answer each request on standard input with what `handler` returns, until there are no more.

    An error of the handler becomes {"failed": text}; if CUDA can't be used after it, {"lost": text}, and this function returns.
    What the program prints goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answer = _answer(handler, json.loads(line))
        sys.stdout.flush()  # whoever has the answer may end this process
        print(json.dumps(answer), file=answers, flush=True)
        if "lost" in answer:
            return


def _answer(handler: Handler, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(handler(request))
    except Exception as error:
        text = one_line(f"{type(error).__name__}: {error}")
        return {"lost" if any(sign in text for sign in FATAL) else "failed": text}


def one_line(text: str, limit: int = 200) -> str:
    """Return the text without line breaks, cut after `limit` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def environment_of(checkout: Path, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with a checkout's package and our examples first on the path, and `others`."""
    own = [str(checkout.resolve()), str(EXAMPLES)]
    path = os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(others or {})}


@contextlib.contextmanager
def messages(said: list[str]) -> Iterator[None]:
    """Add the first line of each message that the package logs in this context to `said`."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage().splitlines()[0])  # type: ignore[method-assign]
    logger = logging.getLogger("graphstreams")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
