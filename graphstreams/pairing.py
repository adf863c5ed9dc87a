"""Compiles the serial twin of a graph inside Inductor's compile of it, so that both are one entry of its caches.

Inductor compiles a graph that no cache has in one function, `fx_codegen_and_compile`, between looking it up and keeping it.
This module stands in front of that function; a graph for which nobody asked for a twin goes straight through.
Read in torch 2.15.0: `_inductor/compile_fx.py` (_compile_fx_inner, fx_codegen_and_compile).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx
from torch._inductor import compile_fx, config
from torch._inductor.async_compile import CompiledTritonKernels
from torch._inductor.debug import DebugContext
from torch._inductor.output_code import OutputCode
from torch._inductor.runtime.autotune_cache import AutotuneCacheBundler

from graphstreams.planning.threshold import Threshold
from graphstreams.runtime.twin import Dispatch, Twin, size_source

log = logging.getLogger("graphstreams")

Find = Callable[[], Threshold | None]  # called once the streamed graph is compiled


class _Wanted(threading.local):
    """The twin that this thread's compile is asked for: of which graph, from which copy, and how to tell its threshold."""

    module: fx.GraphModule | None = None
    serial: fx.GraphModule | None = None
    passes: Sequence[Any] = ()
    find: Find | None = None


_wanted = _Wanted()


@contextlib.contextmanager
def twin_of(module: fx.GraphModule, serial: fx.GraphModule, passes: Sequence[Any], find: Find) -> Iterator[None]:
    """While this is active, Inductor's compile of `module` compiles `serial`, a copy of it, as well and returns a `Twin`.

    `passes` are the custom post-grad passes for the copy, and `find` tells the threshold once `module` is compiled: None, or
    one without a limit, where no twin is needed. Raises what Inductor raises.
    """
    _install()
    before = dict(vars(_wanted))
    vars(_wanted).update(module=module, serial=serial, passes=passes, find=find)
    try:
        yield
    finally:
        vars(_wanted).clear()
        vars(_wanted).update(before)


def _install() -> None:
    """Stand in front of Inductor's function. Does nothing the second time."""
    original = compile_fx.fx_codegen_and_compile
    if getattr(original, "_graphstreams", False):
        return

    @functools.wraps(original)
    def compile_both(gm: fx.GraphModule, example_inputs: Sequence[Any], *args: Any, **kwargs: Any) -> OutputCode:
        streamed = original(gm, example_inputs, *args, **kwargs)
        if _wanted.module is not gm or _wanted.find is None:
            return streamed
        threshold = _wanted.find()
        if threshold is None or threshold.largest is None:
            return streamed
        size = size_source(threshold.symbol, example_inputs)
        serial = _compile_serial(functools.partial(original, _wanted.serial, example_inputs, *args, **kwargs))
        return _paired(streamed, serial, Dispatch(size, threshold.largest))

    compile_both._graphstreams = True  # type: ignore[attr-defined]
    compile_fx.fx_codegen_and_compile = compile_both


def _compile_serial(compile_it: Callable[[], OutputCode]) -> OutputCode:
    # What `_compile_fx_inner` does before every compile: a kernel of the streamed graph must not be shared once it ran.
    CompiledTritonKernels.cache_clear()
    AutotuneCacheBundler.end_compile()
    with config.patch(post_grad_custom_post_pass=list(_wanted.passes) or None), DebugContext():
        return compile_it()


def _paired(streamed: OutputCode, serial: OutputCode, dispatch: Dispatch) -> OutputCode:
    for name in ("output_strides", "mutated_input_idxs"):
        one, other = getattr(streamed, name, None), getattr(serial, name, None)
        if one != other:
            # The caller was told what one of them does, so calls cannot change between them.
            log.warning("no dispatch by size: %s are %s on streams and %s serially; the graph runs serially", name, one, other)
            return serial
    return Twin(streamed, serial, dispatch)
