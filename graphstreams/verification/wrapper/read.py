"""The proof for one generated wrapper: from its source text to a trace for each way that a call may go, and to their races.

The source is parsed and never run. What occurs in wrappers is read from torch 2.14.1 and 2.15.0:
`_inductor/codegen/wrapper.py`, `_dynamo/variables/streams.py`, and this package's `rewriting/wrapper.py`.
"""

from __future__ import annotations

import ast

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.trace import Trace, launch_order
from graphstreams.verification.vector_clocks import Race, find_races
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.dispatch import bodies
from graphstreams.verification.wrapper.module import read_module
from graphstreams.verification.wrapper.names import Module
from graphstreams.verification.wrapper.statements import Reader

__all__ = ["UnreadableWrapper", "launch_order", "read_bodies", "read_wrapper", "verify"]

_MAX_SIZE = 10_000_000  # characters; a wrapper of sixty layers has about a million


def verify(source: str) -> list[Race]:
    """Return the races of a wrapper, whichever way a call goes; none is the proof that there is none.

    Raises `UnreadableWrapper` if the source holds anything whose effect is not known.
    """
    return [race for trace in read_bodies(source) for race in find_races(trace)]


def read_wrapper(source: str) -> Trace:
    """Return what the wrapper enqueues: on streams, if it has a body for that.

    Raises `UnreadableWrapper`, with line and construct, for what is not understood anywhere in the source.
    """
    return read_bodies(source)[0]


def read_bodies(source: str) -> tuple[Trace, ...]:
    """Return a trace for each way that a call may go; the streamed one is the first.

    Raises `UnreadableWrapper` as `read_wrapper` does.
    """
    if len(source) > _MAX_SIZE:
        raise UnreadableWrapper(0, f"the source is too large to be a wrapper: {len(source)} characters")
    if not source.strip():
        raise UnreadableWrapper(0, "the source is empty")
    line = 0
    try:
        traces = []
        for module in bodies(read_module(_parse(source))):
            line = module.entry().lineno
            traces.append(_read(module))
        return tuple(traces)
    except RecursionError:
        raise UnreadableWrapper(line, "code that is nested too deeply") from None


def _read(module: Module) -> Trace:
    machine = AbstractMachine()
    Reader(module, machine).read(module.entry())
    return machine.trace()


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise UnreadableWrapper(error.lineno or 0, f"not Python: {error.msg}") from None
    except (ValueError, MemoryError) as error:
        raise UnreadableWrapper(0, f"not Python: {str(error) or 'nested too deeply'}") from None
