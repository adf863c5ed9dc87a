"""The proof for one generated wrapper: from its source text to a trace, and from the trace to its races.

The source is parsed and never run. What occurs in wrappers is read from torch 2.15.0: `_inductor/codegen/wrapper.py`,
`_dynamo/variables/streams.py`, and this package's `rewriting/wrapper.py`.
"""

from __future__ import annotations

import ast

from graphstreams.verification.happens_before import Race, find_races
from graphstreams.verification.machine import Machine
from graphstreams.verification.module import read_module
from graphstreams.verification.statements import Reader
from graphstreams.verification.trace import Trace, launch_order
from graphstreams.verification.unreadable import UnreadableWrapper

__all__ = ["UnreadableWrapper", "launch_order", "read_wrapper", "verify"]

_MAX_SIZE = 50_000_000  # characters; a wrapper of sixty layers has about a million


def verify(source: str) -> list[Race]:
    """The races of a wrapper; none is the proof that there is none.

    Raises `UnreadableWrapper` where the source holds anything whose effect is not known.
    """
    return find_races(read_wrapper(source))


def read_wrapper(source: str) -> Trace:
    """What the wrapper enqueues. Raises `UnreadableWrapper`, with line and construct, for what is not understood."""
    if len(source) > _MAX_SIZE:
        raise UnreadableWrapper(0, f"the source is too large to be a wrapper: {len(source)} characters")
    if not source.strip():
        raise UnreadableWrapper(0, "the source is empty")
    machine = Machine()
    try:
        Reader(read_module(_parse(source)), machine).read()
    except RecursionError:
        raise UnreadableWrapper(machine.line, "code that is nested too deeply") from None
    return machine.trace()


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise UnreadableWrapper(error.lineno or 0, f"not Python: {error.msg}") from None
    except (ValueError, MemoryError) as error:
        raise UnreadableWrapper(0, f"not Python: {error}") from None
