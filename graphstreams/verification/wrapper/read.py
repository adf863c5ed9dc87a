"""The proof for one generated wrapper: from its source to a trace for each way that a call may go, and to their races.

The source is parsed and never run. The language that it may use is closed: `graphstreams/verification/wrapper/__init__.py` says
which table holds which part of it.
"""

from __future__ import annotations

import ast

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.collectives import misplaced_collectives
from graphstreams.verification.trace import Trace, launch_order
from graphstreams.verification.vector_clocks import Race, find_races
from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.dispatch import bodies
from graphstreams.verification.wrapper.module import read_module
from graphstreams.verification.wrapper.statements import CallReader

__all__ = ["UnreadableWrapper", "launch_order", "read_bodies", "read_wrapper", "verify"]

_MAX_SIZE = 10_000_000  # characters; a wrapper of sixty layers has about a million


def verify(source: str) -> list[Race]:
    """Return the races of a wrapper, whichever way a call goes. An empty list is the proof that there is none.

    It proves, for every call that raises no error:
    - Streams and events order any two launches that touch the same memory, if one of them writes it.
    - No memory is given to anything else while a launch may still use it.
    - Streams wait for the caller's stream before they do anything, and the caller's stream waits for all of them at the end.
    - What the call returns is in memory of the caller's stream.
    - If the wrapper has two bodies, both call collectives on the caller's stream in one order, with the same arguments beside
      tensors.
    A handler of errors, if the wrapper has one, joins all aux streams with the caller's stream and raises the error again.

    It assumes:
    - The source is what runs, unchanged, and what it imports is torch's, Triton's and this package's own.
    - Memory comes from torch's caching allocator.
    - Inputs are in memory of the caller's stream and ready on it. One that is written shares no memory with another. One that
      the wrapper takes for a size, and nowhere for a tensor, is a number.
    - A collective runs until the first wait for one of its tensors, by any view of it, and its process group keeps its tensors
      until then.
    - Operators read, write and return what their schema says, except for those that `operator_schemas` lists.
    - A library product writes the elements of its `out=` and no others, if `out` has the product's sizes.
    - The caller uses the outputs on its own stream, or orders other streams after it.

    It does not compare what the wrapper computes with what the serial wrapper computes.

    Raises UnreadableWrapper, with the line and the construct, if the source holds anything whose effect is not known.
    """
    first, *others = read_bodies(source)
    races = [race for trace in (first, *others) for race in find_races(trace)]
    return [*races, *(race for serial in others for race in misplaced_collectives(first, serial))]


def read_wrapper(source: str) -> Trace:
    """Return what a call of the wrapper enqueues, on streams if it has a body for that.

    Raises UnreadableWrapper, as `verify` does, for what is not understood anywhere in the source.
    """
    return read_bodies(source)[0]


def read_bodies(source: str) -> tuple[Trace, ...]:
    """Return a trace for each way that a call may go: the streamed one first, or the only one.

    A trace holds all that a call enqueues, in the order of the host, under the assumptions of `verify`. Choosing the way only
    looks at sizes and at whether the current stream is captured, so it leaves no step.

    Raises UnreadableWrapper as `verify` does.
    """
    if len(source) > _MAX_SIZE:
        raise UnreadableWrapper(0, f"the source is too large to be a wrapper: {len(source)} characters")
    if not source.strip():
        raise UnreadableWrapper(0, "the source is empty")
    line = 0
    try:
        traces = []
        for module in bodies(read_module(_parse(source))):
            call, machine = module.functions["call"], AbstractMachine()
            line = call.lineno
            CallReader(module, machine).read(call)
            traces.append(machine.trace())
        return tuple(traces)
    except RecursionError:
        raise UnreadableWrapper(line, "code that is nested too deeply") from None


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise UnreadableWrapper(error.lineno or 0, f"not Python: {error.msg}") from None
    except (ValueError, MemoryError) as error:
        raise UnreadableWrapper(0, f"not Python: {str(error) or 'nested too deeply'}") from None
