"""Run programs of tests in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from tests.support.paths import BENCHMARKS, EXAMPLES, ROOT

PATHS = (ROOT, EXAMPLES, BENCHMARKS)  # as pytest's `pythonpath` in pyproject.toml


def environment(more: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return this process's environment and `more`, with a PYTHONPATH that has the package, the tests and the programs.

    What is None in `more` is not set.
    """
    inherited = [path for path in (os.environ.get("PYTHONPATH", ""),) if path]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, PATHS), *inherited]), **(more or {})}
    return {name: value for name, value in found.items() if value is not None}


def last_line(program: str, *arguments: str, more: Mapping[str, str] | None = None) -> str:
    """Return the last line that the Python text `program` prints. Raises AssertionError, with standard error, if it fails."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment(more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
