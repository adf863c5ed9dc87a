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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Wanted:
    """The twin that a compile is asked for."""

    module: fx.GraphModule
    serial: fx.GraphModule
    passes: Sequence[Any]
    find: Find


class _OfThread(threading.local):
    wanted: _Wanted | None = None


_of_thread = _OfThread()


@contextlib.contextmanager
def twin_of(module: fx.GraphModule, serial: fx.GraphModule, passes: Sequence[Any], find: Find) -> Iterator[None]:
    """While this is active, Inductor's compile of `module` compiles `serial`, a copy of it, as well and returns a `Twin`.

    `passes` are the custom post-grad passes for the copy, and `find` tells the threshold once `module` is compiled: None, or
    one that no size passes, where no twin is needed. A graph that is found in a cache comes with its twin. Raises what
    Inductor raises.
    """
    _install()
    before, _of_thread.wanted = _of_thread.wanted, _Wanted(module, serial, passes, find)
    try:
        yield
    finally:
        _of_thread.wanted = before


def _install() -> None:
    """Stand in front of Inductor's function. Does nothing the second time."""
    original = compile_fx.fx_codegen_and_compile
    if getattr(original, "_graphstreams", False):
        return

    @functools.wraps(original)
    def compile_both(gm: fx.GraphModule, example_inputs: Sequence[Any], *args: Any, **kwargs: Any) -> OutputCode:
        compiled = original(gm, example_inputs, *args, **kwargs)
        wanted = _of_thread.wanted
        if wanted is None or wanted.module is not gm:
            return compiled
        threshold = wanted.find()
        if threshold is None or (threshold.largest is None and not threshold.smallest):
            return compiled
        serial = _compile_serial(wanted, lambda module: original(module, example_inputs, *args, **kwargs))
        return _paired(compiled, serial, threshold, example_inputs)

    compile_both._graphstreams = True  # type: ignore[attr-defined]
    compile_fx.fx_codegen_and_compile = compile_both


def _compile_serial(wanted: _Wanted, compile_it: Callable[[fx.GraphModule], OutputCode]) -> OutputCode:
    # As before every compile of Inductor's: kernels that the streamed graph holds must not be handed out again.
    CompiledTritonKernels.cache_clear()
    AutotuneCacheBundler.end_compile()
    with config.patch(post_grad_custom_post_pass=list(wanted.passes) or None), DebugContext():
        return compile_it(wanted.serial)


def _paired(streamed: OutputCode, serial: OutputCode, threshold: Threshold, inputs: Sequence[Any]) -> OutputCode:
    """The twin of both, or the serial graph alone where calls cannot choose: that loses nothing."""
    try:
        size = size_source(threshold.symbol, inputs)
        for name in ("output_strides", "mutated_input_idxs"):
            # The caller is told once what the graph does, and both have to do it.
            if getattr(streamed, name, None) != getattr(serial, name, None):
                raise ValueError(f"the {name} of the streamed and the serial graph differ")
    except ValueError as error:
        log.warning("the graph runs serially, for calls cannot choose by their size: %s", error)
        return serial
    return Twin(streamed, serial, Dispatch(size, threshold.largest, threshold.smallest))
