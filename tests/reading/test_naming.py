"""Check the names of kernels that stand in no module."""

from __future__ import annotations

import pytest
from torch import fx

from graphstreams.reading.naming import _function

TRACE = 'File "model.py", line 3, in forward\n    self.part(x)\nFile "model.py", line {line}, in {function}\n    y.relu()'


@pytest.mark.parametrize("line", [12, 13])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("mix", "mix"),
        ("torch_dynamo_resume_in_forward_at_{line}", "forward"),
        ("torch_dynamo_resume_in_look_at_2_at_{line}", "look_at_2"),
    ],
)
def test_a_name_of_code_behind_a_break_has_no_line_of_the_source(function: str, name: str, line: int) -> None:
    node = fx.Graph().placeholder("x")
    node.meta["stack_trace"] = TRACE.format(line=line, function=function.format(line=line))
    assert _function(node) == name
