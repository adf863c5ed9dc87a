"""Inductor's Python wrapper for graphs that this package rewrote: streams and events come from our runtime.

Inductor's own wrapper asks Dynamo's table of user objects for streams and calls a custom op for every event. That table
is rebuilt by any frame that Dynamo traces, and lives in one process; a graph taken from a cache would find nothing there.
So rewritten graphs get a subclass of the wrapper class, through Inductor's registry of device backends. Every other graph
gets the class that was registered before. Read in torch 2.15.0: `_inductor/codegen/wrapper.py`, `codegen/common.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.codegen import common, wrapper
from torch._inductor.virtualized import V

MARK = "graphstreams"  # key in GraphModule.meta; its value is a Mark
RUNTIME_IMPORT = "from graphstreams.runtime.streams import acquire as _acquire_streams, current_stream as _current_stream"


@dataclasses.dataclass(frozen=True)
class Mark:
    """Says that a module was rewritten: what its wrapper needs, and who checks the code that is generated for it."""

    events: int
    priority: int = 0  # CUDA priority of the aux streams
    mutated: tuple[str, ...] = ()  # the graph's inputs that it changes
    dispatch: str = ""  # a line that says for which sizes this graph runs and for which its serial twin
    proof: Callable[[Any, str], None] | None = None  # gets the GraphLowering and the wrapper's source; raises to refuse


def register() -> None:
    """Put the subclass in front of the wrapper class registered for CUDA. Does nothing the second time."""
    common.init_backend_registration()
    registered = common.device_codegens["cuda"]
    if not isinstance(registered.wrapper_codegen, _Selector):
        registered.wrapper_codegen = _Selector(registered.wrapper_codegen)  # type: ignore[assignment]


class _Selector:
    """What the registry holds for CUDA: our wrapper for marked graphs, the class from before for all others."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.before(*args, **kwargs)

    def create(self, is_subgraph: bool, *args: Any, **kwargs: Any) -> Any:
        meta: dict[str, Any] = V.graph.module.meta  # type: ignore[assignment]
        mark = meta.get(MARK)
        if mark is None or is_subgraph or self.before is not wrapper.PythonWrapperCodegen:
            return self.before.create(is_subgraph, *args, **kwargs)
        return StreamWrapperCodegen(mark)


@dataclasses.dataclass
class _EnterDeviceLine(wrapper.EnterDeviceContextManagerLine):
    """Enter the device guard and take this call's streams and events from the runtime."""

    streams: int = 0
    events: int = 0
    priority: int = 0

    def codegen(self, code: Any) -> None:
        super().codegen(code)
        code.writeline(f"default_stream = _current_stream({self.device_idx})")
        names = [f"stream{i}" for i in range(1, self.streams + 1)] + [f"event{i}" for i in range(self.events)]
        priority = f", {self.priority}" if self.priority else ""
        code.writeline(f"{', '.join(names)}, = _acquire_streams(default_stream, {self.streams}, {self.events}{priority})")


class StreamWrapperCodegen(wrapper.PythonWrapperCodegen):
    """Emits `event3.record(stream1)` and `stream2.wait_event(event3)` for the stream operations of a rewritten graph."""

    def __init__(self, mark: Mark) -> None:
        # The plan fixes the order of the kernels; Inductor's later orderings must not undo it. They are read between
        # here and `generate`, and belong to this graph alone.
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(config.patch(plan_settings()))
        self._mark = mark
        super().__init__()

    def generate(self, is_inference: bool) -> Any:
        with self._settings:
            generated = super().generate(is_inference)
        self._forget_ordered_inputs()
        if self._mark.proof is not None:
            self._mark.proof(V.graph, generated[0].value)
        return generated

    def _forget_ordered_inputs(self) -> None:
        """To the scheduler an input that is passed through a wait is one that the graph changes (`ir.OrderingBarrier`).

        Who changes inputs that move gets no CUDA graph from Inductor.
        """
        graph: Any = V.graph
        names = list(graph.graph_inputs)
        graph.mutated_inputs = type(graph.mutated_inputs)(n for n in graph.mutated_inputs if n in self._mark.mutated)
        graph.mutated_input_idxs = [i for i in graph.mutated_input_idxs if names[i] in self._mark.mutated]

    def codegen_device_guard_enter(
        self, device_idx: int, num_streams: int = 1, stream_idx_to_user_obj_idx: dict[int, int] | None = None
    ) -> None:
        if num_streams == 1 or stream_idx_to_user_obj_idx is None:
            super().codegen_device_guard_enter(device_idx)
            return
        if not self.imports.contains(RUNTIME_IMPORT):
            self.imports.writeline(RUNTIME_IMPORT)
            if self._mark.dispatch:
                self.imports.writeline(self._mark.dispatch)
        self._own_index = stream_idx_to_user_obj_idx
        streams = max(stream_idx_to_user_obj_idx.values())
        enter = _EnterDeviceLine(device_idx, self.last_seen_device_guard_index)
        enter.streams, enter.events, enter.priority = streams, self._mark.events, self._mark.priority
        self.writeline(enter)
        self.last_seen_device_guard_index = device_idx
        self._num_streams = 1

    def codegen_enter_cuda_stream_context(self, code: Any, stream_idx: int) -> None:
        # The caller's stream is current already. Inductor numbers streams as it meets them; the plan's numbers are the
        # ones that a reader knows.
        self._on_aux_stream = stream_idx != 0
        if self._on_aux_stream:
            code.writeline(f"with {_stream_name(self._own_index[stream_idx])}:")
            code.do_indent()

    def codegen_exit_cuda_stream_context(self, code: Any) -> None:
        if self._on_aux_stream:
            code.do_unindent()

    def generate_fallback_kernel(self, node: Any) -> None:
        emitted = _emit(node)
        if emitted is None:
            super().generate_fallback_kernel(node)
        elif emitted:
            self.writeline(emitted)


def plan_settings() -> dict[str, Any]:
    """Settings of Inductor under which it keeps the order of the regions and generates one sound function.

    Buffer reuse goes by the stream of a buffer's newest name (`Scheduler.get_buf_stream`), which a `control_deps` on another
    stream changes: a kernel was seen to get a buffer that another stream still read. Without it the allocator, which knows
    the streams, reuses the same memory at run time.
    """
    return {"reorder_for_peak_memory": False, "graph_partition": False, "allow_buffer_reuse": False}


def _stream_name(index: int) -> str:
    return "default_stream" if index == 0 else f"stream{index}"


def _emit(node: Any) -> str | None:
    """The line for a stream operation, an empty string where it only holds a lifetime, None for any other operation."""
    streams = torch.ops.streams
    arguments = node.constant_args
    if node.op_overload is streams.record_event.default:
        return f"event{arguments[0]}.record({_stream_name(arguments[1])})"
    if node.op_overload is streams.wait_event.default:
        return f"{_stream_name(arguments[1])}.wait_event(event{arguments[0]})"
    if node.op_overload is streams.sync_dealloc.default:
        # Its stream has already waited for the event, at the join; what is left is that Inductor frees its tensor later.
        return ""
    return None
