"""Check that each trap of native streams that is known has a test here, numbered as they were found.

With its defence a graph is sound, and without it the trap is there. Traps of the GPU's own run time are in `tests/gpu`.
"""

from __future__ import annotations

import re
from pathlib import Path

TRAPS = {
    1: "Dynamo's registry of streams is not there when a wrapper from a cache runs",
    2: "nor is its registry of events",
    3: "records and waits that nothing depends on may be moved or dropped",
    4: "Inductor moves a consumer ahead of its wait",
    5: "a kernel lands behind the record that ends its stream",
    6: "a buffer is reused while another stream reads it",
    7: "an input is freed while another stream reads it",
    8: "a buffer is changed in place while another stream reads it",
    9: "passes of Inductor's that run later change the graph",
    10: "memory is given back while another stream, another call or another caller uses it",
    11: "`record_stream` delays frees by times that no proof knows",
    12: "the order in which branches are enqueued",
    13: "events of another capture",
    14: "operators that do not tell what they write or wait for",
    15: "GEMMs with one row become other kernels under coordinate descent tuning",
    16: "the arguments of a backend",
    17: "a record that is late makes others wait for too much",
    18: "Inductor reorders kernels to save memory",
}


def test_every_trap_has_a_test() -> None:
    sources = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    named = " ".join(re.findall(r"^def test_trap_((?:\d+_and_)?\d+)_", sources, re.MULTILINE))
    assert {int(number) for number in re.findall(r"\d+", named)} == TRAPS.keys()
