"""Starts `runtime/child.py`, which measures a plan at sizes that no call has had yet, and asks it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from graphstreams.autotuning.benchmark_worker import ANSWER
from graphstreams.autotuning.synthetic_inputs import described
from graphstreams.errors import Unmeasurable

log = logging.getLogger("graphstreams")

MODULE = "graphstreams.autotuning.benchmark_worker"
PATIENCE_SECONDS = 120.0  # for one answer, the start of the process included


class Elsewhere:
    """One child process and its job. It starts with the first question; after a failure it is gone and answers no more."""

    def __init__(self, job: Mapping[str, Any], command: Sequence[str] = (), patience: float = PATIENCE_SECONDS) -> None:
        """`job` as the child loads it. `command` stands in for the child's own; the path of the job is added to it. `patience`
        is how many seconds an answer may take, for the first one with the start of the process.
        """
        self._job, self._patience = job, patience
        self._command = list(command) or [sys.executable, "-m", MODULE]
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._failed, self._late = "", False

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def gain(self, arguments: Sequence[Any]) -> float:
        """The share of the serial time that the plan saves on `arguments`: numbers and layouts of tensors.

        Raises Unmeasurable where the process cannot be started or asked, ends, or gives no answer in time, and then for every
        later question.
        """
        if not self._failed:
            try:
                answer = self._ask(json.dumps([described(argument) for argument in arguments]))
            except Exception as error:  # of the system, a full disk among them, or of what cannot be written down
                log.debug("the process that measures other sizes cannot be started", exc_info=True)
                text = (str(error).strip().splitlines() or [""])[0]
                self._failed = f"the process that measures other sizes cannot be started: {type(error).__name__}: {text}"[:300]
            else:
                if answer is not None:
                    return answer
                silent = f"the process that measures other sizes gave no answer in {self._patience:.0f} s"
                ended = f"the process that measures other sizes ended: {self._last_words()}"
                self._failed = silent if self._late else ended
            self.close()
        raise Unmeasurable(self._failed)

    def close(self) -> None:
        """End the process and remove its files."""
        self._stop()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _ask(self, question: str) -> float | None:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(self._patience, self._give_up, [process])
        timer.start()
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            for line in process.stdout:  # whatever else is printed there is not ours
                if line.startswith(ANSWER):
                    return float(line.removeprefix(ANSWER))
        except (OSError, ValueError):
            log.debug("the process that measures other sizes cannot be asked", exc_info=True)
        finally:
            timer.cancel()
        return None

    def _give_up(self, process: subprocess.Popen[str]) -> None:
        self._late = True
        process.kill()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphstreams-", ignore_cleanup_errors=True)
            path = Path(self._folder.name) / "job.pt"
            torch.save(dict(self._job), path)
            # What this process can import, the child can: a checkout need not be installed.
            folders = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
            with open(self._errors(self._folder), "w", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    [*self._command, str(path)],
                    env={**os.environ, "PYTHONPATH": folders},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
        return self._process

    @staticmethod
    def _errors(folder: tempfile.TemporaryDirectory[str]) -> Path:
        return Path(folder.name) / "errors.txt"

    def _last_words(self) -> str:
        """The last line that it wrote to standard error and that names an error, else the last one."""
        assert self._folder is not None
        try:
            text = self._errors(self._folder).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"{type(error).__name__}: what it said cannot be read"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if "Error" in line or "Assertion" in line]
        return (named or lines or ["it said nothing"])[-1][:200]

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not written yet has nobody to read it
                    pipe.close()
