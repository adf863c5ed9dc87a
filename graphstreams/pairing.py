"""Compiles the serial twin of a graph that runs on streams only for some sizes. Read in torch 2.15.0: `_guards.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx
from torch._guards import TracingContext
from torch._inductor import config

from graphstreams.graph.lowering import copy_graph
from graphstreams.runtime.twin import Dispatch, Twin

log = logging.getLogger("graphstreams")

Compile = Callable[[fx.GraphModule], Any]


def compile_with_twin(
    gm: fx.GraphModule,
    compile_graph: Compile,
    passes: Sequence[Any],
    dispatch_of: Callable[[Any], Dispatch | None],
    limited: Callable[[], bool],
) -> Any:
    """Compile `gm` by `compile_graph`, and a copy of it once more without our pass where `dispatch_of` the first asks for it.

    `passes` are the custom post-grad passes for the copy. `limited` tells, after the first compile, whether its graph streams
    for some sizes only: where it does and the first does not say for which, the copy is all that is returned. Raises what
    `compile_graph` raises.
    """
    before = copy_graph(gm)
    streamed = compile_graph(gm)
    dispatch = dispatch_of(streamed)
    if dispatch is None and not limited():
        return streamed
    # The strides of the outputs may be reported once, and both halves have the same.
    with config.patch(post_grad_custom_post_pass=list(passes) or None), TracingContext.report_output_strides():
        serial = compile_graph(before)
    if dispatch is None:
        log.warning("the graph runs serially, for its generated code does not say for which sizes it gains")
        return serial
    for name in ("output_strides", "mutated_input_idxs"):
        # The caller is told once what the graph does, and both have to do it.
        first, second = (getattr(half, name, None) or () for half in (streamed, serial))
        if list(first) != list(second) and (name == "output_strides" or set(first) != set(second)):
            log.warning("the graph runs serially, for the %s of the streamed and the serial graph differ", name)
            return serial
    return Twin(streamed, serial, dispatch)


def dispatch_in_source(compiled: Any) -> Dispatch | None:
    """The dispatch that the wrapper of a compiled graph carries."""
    return Dispatch.of(getattr(compiled, "source_code", None) or "")
