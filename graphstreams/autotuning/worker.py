"""Times one plan at other sizes, in a process of its own: `python -m graphstreams.autotuning.worker JOB`.

At another size an index may be out of range. On a GPU that ends all work of the process, so it must not be the caller's.
`WorkerClient` starts the process. Each line of its standard input is a JSON list of numbers and of the fields of `Layout`s, and
is answered by a line `gain SHARE`.
"""

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
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphstreams.autotuning.matmul_precision import set_precisions
from graphstreams.autotuning.recorded_launches import by_kernel, record_launches
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.synthetic_inputs import Layout, synthesize
from graphstreams.autotuning.timing import means_over_captures
from graphstreams.errors import Unmeasurable
from graphstreams.ir.plan import Plan

log = logging.getLogger("graphstreams")

ANSWER = "gain "
ROUNDS, REPEATS = 7, 8
PATIENCE_SECONDS = 120.0  # for one answer, the start of the process included
_PROCESS = "the process that measures other sizes"
_ERRORS = "errors.txt"  # in the folder of the job: what the process writes to standard error


class WorkerClient:
    """A subprocess that times one plan at other sizes. It starts on first use, and does not start again after a failure."""

    def __init__(self, job: Mapping[str, Any], command: Sequence[str] = (), patience: float = PATIENCE_SECONDS) -> None:
        """`job` is what the worker loads. `command`, to which the path of the job is added, may start another worker.

        An answer may take `patience` seconds, the first one with the start of the process.
        """
        self._job, self._patience = job, patience
        self._command = list(command) or [sys.executable, "-m", __name__]
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._failed, self._late = "", False

    def gain(self, arguments: Sequence[Any]) -> float:
        """Return the share of the serial time that the plan saves on `arguments`: numbers, and layouts of tensors.

        Raises Unmeasurable if the process cannot be started or asked, ends, or gives no answer in time, and then in every later
        call.
        """
        if not self._failed:
            try:
                answer = self._ask(json.dumps([vars(each) if isinstance(each, Layout) else each for each in arguments]))
                if answer is not None:
                    return answer
                ended = f"gave no answer in {self._patience:.0f} s" if self._late else f"ended: {self._last_words()}"
                self._failed = f"{_PROCESS} {ended}"
            except Exception as error:  # of the system, such as a full disk, or of an argument that JSON cannot hold
                log.debug("%s cannot be started", _PROCESS, exc_info=True)
                text = (str(error).strip().splitlines() or [""])[0]
                self._failed = f"{_PROCESS} cannot be started: {type(error).__name__}: {text}"[:300]
            self.close()
        raise Unmeasurable(self._failed)

    def close(self) -> None:
        """End the process and remove its files."""
        process, folder, self._process, self._folder = self._process, self._folder, None, None
        if process is not None:
            with contextlib.suppress(OSError), process:  # nobody reads what was not written yet
                process.kill()
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
            for line in process.stdout:  # libraries may print other lines
                if line.startswith(ANSWER):
                    return float(line.removeprefix(ANSWER))
        except (OSError, ValueError):
            log.debug("%s cannot be asked", _PROCESS, exc_info=True)
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
            # The worker can import what this process can, so that a checkout need not be installed.
            folders = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
            with path.with_name(_ERRORS).open("w", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    [*self._command, str(path)],
                    env={**os.environ, "PYTHONPATH": folders},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
        return self._process

    def _last_words(self) -> str:
        """Return the last line on standard error that names an error, else the last line."""
        assert self._folder is not None
        try:
            text = (Path(self._folder.name) / _ERRORS).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"{type(error).__name__}: what it said cannot be read"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if "Error" in line or "Assertion" in line]
        return (named or lines or ["it said nothing"])[-1][:200]


def main(path: str) -> None:
    """Answer requests until standard input ends."""
    job = torch.load(path, weights_only=True)
    torch.cuda.set_device(job["device"])
    set_precisions(job["precisions"])
    for line in sys.stdin:
        with torch.no_grad():
            share = gain(job, [synthesize(each) for each in json.loads(line)])
        print(f"{ANSWER}{share!r}", flush=True)


def gain(job: Mapping[str, Any], arguments: Sequence[Any]) -> float:
    """Return the share of the serial time that the plan saves."""
    launches = record_launches(job["source"], job["lines"], job["constants"], arguments)
    replayer = KernelReplayer(by_kernel(launches, job["kernel_of_launch"], job["kernels"]))
    captures = [partial(replayer.capture_serial, job["order"]), partial(replayer.capture_plan, Plan.loads(job["plan"]))]
    serial, streamed = means_over_captures(captures, ROUNDS, REPEATS)
    return 1 - streamed / serial


if __name__ == "__main__":
    main(sys.argv[1])
