"""Check that torch's own settings of its log reach the logger of this package, which torch does not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SAY = """
import logging
log = logging.getLogger("graphstreams")
for level in (logging.DEBUG, logging.INFO, logging.WARNING):
    log.log(level, "said at %s", logging.getLevelName(level))
"""
# Each case in a fork of a process that has imported torch, with the call by which torch reads the variable at the end of that.
FORKED = """
import json, os, sys, torch
for setting, function in json.loads(sys.argv[1]):
    print("next", file=sys.stderr, flush=True)
    if os.fork() == 0:
        os.environ.pop("TORCH_LOGS", None)
        if setting is not None:
            os.environ["TORCH_LOGS"] = setting
        torch._logging._init_logs()
        if function is not None:
            torch._logging.set_logs(modules=function)
        exec(sys.argv[2])
        sys.stderr.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def _levels(errors: str) -> list[str]:
    return [line.partition("said at ")[2] for line in errors.splitlines() if "said at " in line]


def said(*cases: tuple[str | None, dict[str, int] | None]) -> list[list[str]]:
    """Return the levels that are shown with each setting of the variable, and modules that the function is given."""
    command = [sys.executable, "-c", FORKED, json.dumps(cases), SAY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [_levels(errors) for errors in done.stderr.split("next\n")[1:]]


def test_the_variable_and_the_function_take_the_packages_name() -> None:
    settings = None, "graphstreams", "+graphstreams", "-graphstreams", "graphstreams,perf_hints"
    assert said(*((setting, None) for setting in settings), (None, {"graphstreams": 20})) == [
        ["WARNING"],
        ["INFO", "WARNING"],
        ["DEBUG", "INFO", "WARNING"],
        [],
        ["INFO", "WARNING"],
        ["INFO", "WARNING"],
    ]


@pytest.mark.parametrize(("setting", "levels"), [("+graphstreams", ["DEBUG", "INFO", "WARNING"]), ("-graphstreams", [])])
def test_the_variable_is_read_while_torch_is_imported(setting: str, levels: list[str]) -> None:
    command = [sys.executable, "-c", f"import torch\n{SAY}"]
    environment = {**os.environ, "TORCH_LOGS": setting}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert _levels(done.stderr) == levels


def test_torch_lists_its_names_before_another_package_can_add_one() -> None:
    """`docs/options.md` says so. Once this fails, the logger can be registered."""
    environment = {**os.environ, "TORCH_LOGS": "help"}
    command = [sys.executable, "-c", "import graphstreams, graphstreams.options; import torch; print('imported')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode and "imported" not in done.stdout
    assert "Visible registered names" in done.stderr and "\n  graphstreams" not in done.stderr
