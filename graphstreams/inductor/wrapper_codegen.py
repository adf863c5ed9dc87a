"""Generate the Python wrappers of graphs that this package has rewritten or seen.

The streams and events of a rewritten graph come from our runtime. Inductor's own wrapper asks Dynamo's table of user objects
for streams, and calls a custom operator for every event. That table lives in one process, and any frame that Dynamo traces
rebuilds it, so a graph loaded from a cache would find nothing in it. A graph that a `PostGradPass` has seen gets Inductor's
serial code, to which a second body may be added.
Read in torch 2.15.0: `_inductor/codegen/wrapper.py`, `_inductor/scheduler.py` (generate_stream_ctx_switching).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch._inductor.codegen import wrapper
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.utils import ValueWithLineMap
from torch._inductor.virtualized import V

from graphstreams.inductor import scheduling, wrapper_lines
from graphstreams.inductor.concatenations import on_several_streams, pieces_of
from graphstreams.inductor.wrapper_lines import RUNTIME_IMPORT, RewriteInfo

Code = tuple[str, Sequence[tuple[int, int]]]  # a wrapper; (line of the serial wrapper, how many lines were put before it)
AddBody = Callable[[Any, str], Code]  # from Inductor's graph and the wrapper generated for it to the code to use


class SerialWrapperCodegen(wrapper.PythonWrapperCodegen):
    """Inductor's own wrapper of a graph, to the text of which a second body may be added."""

    def __init__(self, add_body: AddBody) -> None:
        self._add_body = add_body
        super().__init__()

    def generate(self, is_inference: bool) -> Any:
        serial, *others = super().generate(is_inference)
        source, added = self._add_body(V.graph, serial.value)
        # Without the streams of another pass the wrapper is a different text, for which the line map means nothing.
        kept = serial.line_map if len(serial.value.split("\n")) + sum(n for _, n in added) == len(source.split("\n")) else []
        shifted = [(at + sum(count for line, count in added if line <= at), node) for at, node in kept]
        return (ValueWithLineMap(source, shifted), *others)


class StreamWrapperCodegen(wrapper.PythonWrapperCodegen):
    """The wrapper of a rewritten graph, with `event3.record(stream1)` and `event3.wait(stream2)` for stream operations."""

    def __init__(self, info: RewriteInfo) -> None:
        self._info = info
        self._guards: list[int] = []  # the number of aux streams that each open device guard took
        self._stream_index = 0  # of the open stream context, as Inductor counts streams
        self._handles: dict[str, tuple[str, int]] = {}  # variable -> the line that gave it a stream's handle, and the stream
        super().__init__()

    def register_alignment_check_inputs(self) -> None:
        """Do nothing: `EnterDeviceLine` copies, ahead of the fork, the misaligned inputs that the serial body copies."""

    def push_codegened_graph(self, graph: Any) -> None:
        scheduling.forget_order(graph.scheduler.nodes)
        super().push_codegened_graph(graph)

    def run_wrapper_ir_passes(self, is_inference: bool) -> None:
        # Before memory is planned, so that none of it is used before.
        self.lines = wrapper_lines.allocations_first(self.lines, on_several_streams(V.graph.scheduler))
        super().run_wrapper_ir_passes(is_inference)
        self.lines = wrapper_lines.outputs_first(self.lines, set(V.graph.get_output_names()))

    def codegen_allocation(self, buffer: Any) -> None:
        # Inductor opens no stream context for a node that launches nothing, such as an `empty` that other nodes fill. A
        # concatenation is allocated by what writes its first piece, in the context of that.
        scheduler, name = V.graph.scheduler, buffer.get_name()
        node: Any = scheduler.name_to_buf[name].defining_op if name in scheduler.name_to_buf else None
        opens = isinstance(node, NopKernelSchedulerNode) and not pieces_of(node)
        if opens and scheduler.get_node_stream(node) != (scheduler.current_stream_idx or 0):
            if scheduler.current_stream_idx is not None:
                scheduler.generate_stream_ctx_exit()
            scheduler._current_stream_ctx = self.codegen_cuda_stream_enter(stream_idx=scheduler.get_node_stream(node))
        super().codegen_allocation(buffer)

    def codegen_device_guard_enter(
        self, device_idx: int, num_streams: int = 1, stream_idx_to_user_obj_idx: dict[int, int] | None = None
    ) -> None:
        if num_streams == 1 or stream_idx_to_user_obj_idx is None:
            self._guards.append(0)
            super().codegen_device_guard_enter(device_idx)
            return
        if not self.imports.contains(RUNTIME_IMPORT):
            self.imports.writeline(RUNTIME_IMPORT)
            if self._info.aligned:
                self.imports.writeline("from torch._C._dynamo.guards import copy_if_misaligned")
        self._own_index = stream_idx_to_user_obj_idx
        streams = max(stream_idx_to_user_obj_idx.values())
        self._guards.append(streams)
        self.writeline(wrapper_lines.EnterDeviceLine(device_idx, self.last_seen_device_guard_index, streams, self._info))
        self.last_seen_device_guard_index = device_idx
        self._num_streams = 1

    def codegen_device_guard_exit(self) -> None:
        if streams := self._guards.pop():
            # At the end of a graph Inductor does not close the context of the last stream.
            if V.graph.scheduler.current_stream_idx is not None:
                V.graph.scheduler.generate_stream_ctx_exit()
            self.writeline(wrapper_lines.ExitStreamsLine(streams))
        super().codegen_device_guard_exit()

    def codegen_enter_cuda_stream_context(self, code: Any, stream_idx: int) -> None:
        # The caller's stream is current already. Inductor numbers streams as it meets them; readers know the plan's numbers.
        self._stream_index = stream_idx
        if stream_idx != 0:
            code.writeline(f"with {wrapper_lines.stream_name(self._own_index[stream_idx])}:")
            code.do_indent()

    def codegen_exit_cuda_stream_context(self, code: Any) -> None:
        if self._stream_index != 0:
            code.do_unindent()
        self._stream_index = 0

    def _generate_kernel_call_helper(self, *args: Any, **kwargs: Any) -> None:
        # Inductor asks for the stream's handle before each launch of a Triton kernel, which takes 0.3 us of the launch's 13 us
        # on an H200's host.
        write = self.writeline
        with self.set_writeline(self.wrapper_call, lambda line: None if self._holds_handle(line) else write(line)):
            super()._generate_kernel_call_helper(*args, **kwargs)

    def _holds_handle(self, line: Any) -> bool:
        """Return whether the line assigns the handle of the current stream to a variable that already holds it."""
        name, asks, _ = line.partition(" = get_raw_stream(") if isinstance(line, str) else ("", "", "")
        if not asks:
            return False
        held, self._handles[name] = self._handles.get(name), (line, self._stream_index)
        return held == self._handles[name]

    def generate_fallback_kernel(self, node: Any) -> None:
        line = wrapper_lines.stream_operation_line(node)
        if line is None:
            super().generate_fallback_kernel(node)
        elif line:
            self.writeline(wrapper_lines.commented(line, node, self._info))
