"""Check that a command ends with status 0 or 2 and never with a traceback, whatever stands in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphstreams.__main__ import main
from graphstreams.costs.calibration import Calibration
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import PlanFile

IDS = st.sampled_from(["a", "b", "c", "", "d" * 2000, "\ud800", "ä\n"])
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([1e308, 5e-324, 10**400, -0.0, True]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), IDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, VALUES)


KERNELS = st.fixed_dictionaries(
    {"id": mostly(IDS), "us": mostly(NUMBERS)}, optional={"after": mostly(st.lists(mostly(IDS), max_size=3)), "label": VALUES}
)
PROFILES = st.fixed_dictionaries(
    {"unit": mostly(st.just("us")), "kernels": mostly(st.lists(mostly(KERNELS), max_size=4))}, optional={"name": VALUES}
)
BRACKETS = st.builds(lambda left, count, right: left * count + right, st.sampled_from('[{("'), st.integers(0, 3000), st.text())
CONTENTS = st.one_of(
    st.binary(),
    st.one_of(VALUES, PROFILES).map(lambda data: json.dumps(data).encode()),
    st.one_of(st.text(), BRACKETS).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
IN_FILES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def status_of(capsys: pytest.CaptureFixture[str], command: str, path: Path, *more: str) -> int:
    """Return the exit status; with 2 there is one line, which names the file."""
    status = main([command, str(path), *more])
    printed = capsys.readouterr()
    if status == 2:
        (line,) = printed.err.splitlines()
        assert f"{path}: " in line and printed.out == ""
        assert line.split(f"{path}: ")[1].strip()
    else:
        assert printed.out and not printed.err
    return status


@IN_FILES
@given(content=CONTENTS)
def test_plan_takes_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    assert status_of(capsys, "plan", path) in (0, 2)


@IN_FILES
@given(
    after=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=10, max_size=10),
    us=st.lists(st.floats(0, 1e12), min_size=10, max_size=10),
    streams=st.integers(1, 32),
)
def test_plan_plans_what_is_a_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], after: list[list[int]], us: list[float], streams: int
) -> None:
    path = tmp_path / "profile.json"
    kernels = [{"id": str(i), "us": us[i], "after": [str(j) for j in after[i] if j < i]} for i in range(10)]
    path.write_text(json.dumps({"unit": "us", "kernels": kernels}))
    assert status_of(capsys, "plan", path, "--streams", str(streams)) == 0


@IN_FILES
@given(content=CONTENTS)
def test_verify_takes_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "wrapper.py"
    path.write_bytes(content)
    assert status_of(capsys, "verify", path) == 2  # none of these is a wrapper


@IN_FILES
@given(content=CONTENTS)
def test_diff_takes_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    assert status_of(capsys, "diff", path, str(path)) == 2  # none of these is a report


@pytest.mark.parametrize("read", [Plan.loads, PlanFile.loads, Calibration.loads])
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), BRACKETS, VALUES.map(json.dumps)))
def test_stored_text_is_read_or_refused(read: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read(text)
