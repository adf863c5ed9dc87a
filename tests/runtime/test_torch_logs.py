"""Check that torch's own settings of its log reach the logger of this package, which torch does not know."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging, torch
torch_logs = {set_logs}
if torch_logs:
    torch._logging.set_logs(modules=torch_logs)
log = logging.getLogger("graphstreams")
for level in (logging.DEBUG, logging.INFO, logging.WARNING):
    log.log(level, "said at %s", logging.getLevelName(level))
"""


def said(setting: str | None, set_logs: str = "None") -> list[str]:
    """Return the levels that a process shows."""
    environment = {key: value for key, value in os.environ.items() if key != "TORCH_LOGS"}
    if setting is not None:
        environment["TORCH_LOGS"] = setting
    command = [sys.executable, "-c", PROGRAM.format(set_logs=set_logs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return [line.partition("said at ")[2] for line in done.stderr.splitlines() if "said at " in line]


@pytest.mark.parametrize(
    ("setting", "levels"),
    [
        (None, ["WARNING"]),
        ("graphstreams", ["INFO", "WARNING"]),
        ("+graphstreams", ["DEBUG", "INFO", "WARNING"]),
        ("-graphstreams", []),
        ("graphstreams,perf_hints", ["INFO", "WARNING"]),
    ],
)
def test_the_variable_takes_the_packages_name(setting: str | None, levels: list[str]) -> None:
    assert said(setting) == levels


def test_so_does_the_function() -> None:
    assert said(None, '{"graphstreams": logging.INFO}') == ["INFO", "WARNING"]


def test_torch_lists_its_names_before_another_package_can_add_one() -> None:
    """`docs/options.md` says so. Once this fails, the logger can be registered."""
    environment = {**os.environ, "TORCH_LOGS": "help"}
    command = [sys.executable, "-c", "import graphstreams, graphstreams.options; import torch; print('imported')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode and "imported" not in done.stdout
    assert "Visible registered names" in done.stderr and "\n  graphstreams" not in done.stderr
