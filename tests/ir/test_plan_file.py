"""Check plans as files: the text of one worked out by hand, what may be left out, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphstreams.errors import PlanFileError
from graphstreams.ir.plan_file import PlanFile, PlannedKernel, TokenRange
from tests.support.hand_plan import GRAPH, PLAN
from tests.support.json_schema import faults

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
TEXT = """{
 "version": 1,
 "graph": "g",
 "runs": "streams",
 "priority": 0,
 "kernels": [
  {"name": "load", "stream": 0, "waits": [], "launches": ["extern_kernels.mm"]},
  {"name": "long", "stream": 0, "waits": [], "launches": ["c"], "bytes": 0},
  {"name": "short", "stream": 1, "waits": ["load"], "launches": ["a", "b"], "bytes": 0},
  {"name": "add", "stream": 0, "waits": ["short"], "launches": ["d"], "bytes": 0},
  {"name": "keep", "stream": 0, "waits": [], "launches": ["e"], "bytes": 0}
 ]
}
"""  # what `load` touches depends on a dynamic size


def test_the_text_of_a_plan_made_by_hand() -> None:
    file = PlanFile.of(PLAN, GRAPH)
    assert file.dumps() == TEXT
    assert PlanFile.loads(TEXT) == file
    assert faults(SCHEMA, json.loads(TEXT)) == []


def test_a_file_may_leave_out_all_but_names_and_streams() -> None:
    text = '{"version": 1, "kernels": [{"name": "a", "stream": 0}, {"name": "b", "stream": 2}]}'
    file = PlanFile.loads(text)
    assert file == PlanFile((PlannedKernel("a", 0), PlannedKernel("b", 2)))
    assert not file.places_waits and PlanFile.loads(TEXT).places_waits
    assert PlanFile.loads(file.dumps()) == file
    assert faults(SCHEMA, json.loads(text)) == faults(SCHEMA, json.loads(file.dumps())) == []


def test_priority_and_what_runs_are_kept() -> None:
    file = PlanFile.of(replace(PLAN, priority=-2), GRAPH, "serial")
    assert (file.priority, file.runs) == (-2, "serial")
    assert PlanFile.loads(file.dumps()) == file


@pytest.mark.parametrize("tokens", [TokenRange(0, 256), TokenRange(2, None), TokenRange(8, 8)])
def test_for_which_tokens_a_plan_runs_is_kept(tokens: TokenRange) -> None:
    file = PlanFile.of(PLAN, GRAPH, tokens=tokens)
    assert PlanFile.loads(file.dumps()) == file
    assert faults(SCHEMA, json.loads(file.dumps())) == []


def test_for_a_graph_of_other_sizes_launches_and_bytes_are_left_out() -> None:
    for kernel in PlanFile.loads(TEXT).of_any_size().kernels:
        assert kernel.launches is None and kernel.bytes is None and kernel.waits is not None


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(TEXT), **fields})


def with_kernel(**fields: Any) -> str:
    """Return the text with other fields of `short`; None leaves one out."""
    data = json.loads(TEXT)
    entry = {**data["kernels"][2], **fields}
    data["kernels"][2] = {name: value for name, value in entry.items() if value is not None}
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "it is no plan"),
        (changed(version=2), "the plan has version 2; this graphstreams reads version 1"),
        (changed(version=True), "the plan has version True"),
        (changed(kernls=[]), "the plan has 'kernls', which is not known; the nearest is 'kernels'"),
        (changed(kernels=[]), "the plan has no list of 'kernels'"),
        (changed(kernels=[{"stream": 0}]), r"kernels\[0\] has no 'name'"),
        (changed(graph=3), "the plan's 'graph' is 3"),
        (changed(runs="both"), "the plan's 'runs' is 'both'; it has to be 'streams' or 'serial'"),
        (changed(priority=1), "the plan's 'priority' is 1; a whole number from -5 to 0"),
        (changed(tokens=8), "the plan's 'tokens' is 8; 'smallest' and 'largest' are needed"),
        (changed(tokens={"least": 8}), "the plan's 'tokens' has 'least', which is not known; the nearest is 'largest'"),
        (changed(tokens={"smallest": 9, "largest": 8}), "'largest' of the plan's 'tokens' is 8; a whole number from 9"),
        (changed(tokens={"largest": 0}), "'largest' of the plan's 'tokens' is 0; a whole number from 1"),
        (with_kernel(stream=None), "kernel 'short' has no 'stream'"),
        (with_kernel(stream=-1), "the 'stream' of kernel 'short' is -1; a whole number from 0"),
        (with_kernel(stream=1.0), "the 'stream' of kernel 'short' is 1.0"),
        (with_kernel(stram=1), "kernel 'short' has 'stram', which is not known; the nearest is 'stream'"),
        (with_kernel(waits="load"), "the 'waits' of kernel 'short' is 'load'; a list of names is needed"),
        (with_kernel(waits=None), "kernel 'short' has no 'waits', and others have; give them for each kernel or for none"),
        (with_kernel(launches=[1]), "the 'launches' of kernel 'short'"),
        (with_kernel(bytes="1"), "the 'bytes' of kernel 'short' is '1'"),
        (with_kernel(name="add"), "kernel 'add' is placed twice"),
        (TEXT.replace('"priority": 0', '"priority": 0, "priority": -1'), "the plan has 'priority' twice"),
        (TEXT.replace('"stream": ', '"stream": 0, "stream": '), "kernel '[a-z]+' has 'stream' twice"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_entry_at_fault(text: str, told: str) -> None:
    with pytest.raises(PlanFileError, match=told):
        PlanFile.loads(text)
