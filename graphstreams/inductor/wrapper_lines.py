"""Write the lines of a wrapper that take streams and events from our runtime, record events and wait for them.

Read in torch 2.15.0: `_inductor/codegen/wrapper.py` (EnterDeviceContextManagerLine, AllocateLine).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch._inductor.codegen import wrapper

RUNTIME_IMPORT = "from graphstreams.runtime.streams import acquire_for_call as _acquire_streams, join as _join_streams"


@dataclasses.dataclass(frozen=True)
class RewriteInfo:
    """What the wrapper of a rewritten module needs to know of the plan."""

    events: int
    priority: int = 0  # CUDA priority of the aux streams
    aligned: tuple[str, ...] = ()  # inputs that are copied, ahead of the fork, if they are misaligned
    # What the wrapper says of records and waits, by event, and the stream that waits, or None for the record.
    comments: Mapping[tuple[int, int | None], str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class EnterDeviceLine(wrapper.EnterDeviceContextManagerLine):
    """The lines that enter the device guard, take this call's streams and events, and begin what is joined on an error."""

    streams: int  # aux streams
    info: RewriteInfo

    def codegen(self, code: Any) -> None:
        """Write the lines."""
        super().codegen(code)
        for name in self.info.aligned:
            code.writeline(f"{name} = copy_if_misaligned({name})")
        events = self.info.events
        names = [*_stream_names(self.streams), *(f"event{i}" for i in range(events))]
        priority = f", {self.info.priority}" if self.info.priority else ""
        code.writeline(f"{', '.join(names)}, = _acquire_streams({self.device_idx}, {self.streams}, {events}{priority})")
        code.writeline("try:")
        code.do_indent()


@dataclasses.dataclass
class ExitStreamsLine(wrapper.WrapperLine):
    """The lines that end what is joined on an error."""

    streams: int

    def codegen(self, code: Any) -> None:
        """Write the lines."""
        code.do_unindent()
        code.writeline("except BaseException:")
        with code.indent():
            code.writeline(f"_join_streams({', '.join(_stream_names(self.streams))})")
            code.writeline("raise")


def _stream_names(aux: int) -> list[str]:
    return [stream_name(index) for index in range(aux + 1)]


def stream_name(index: int) -> str:
    """Return what the stream with that number in the plan is called in a wrapper; 0 is the caller's stream."""
    return "default_stream" if index == 0 else f"stream{index}"


def stream_operation_line(node: Any) -> str | None:
    """Return the line for a stream operation; empty if it only extends a lifetime, None for any other operation."""
    streams = torch.ops.streams
    arguments = node.constant_args
    if node.op_overload is streams.record_event.default:
        return f"event{arguments[0]}.record({stream_name(arguments[1])})"
    if node.op_overload is streams.wait_event.default:
        return f"event{arguments[0]}.wait({stream_name(arguments[1])})"
    if node.op_overload is streams.sync_dealloc.default:
        # Its stream has waited for all that touches the tensor. All that remains is that Inductor frees the tensor later.
        return ""
    return None


def commented(line: str, node: Any, info: RewriteInfo) -> str:
    """Return the line of a stream operation with what the plan says of it. The proof reads no comments."""
    event, stream = node.constant_args[:2]
    waits = node.op_overload is torch.ops.streams.wait_event.default
    comment = info.comments.get((event, stream if waits else None), "")
    return f"{line}  # {comment}" if comment else line


def allocations_first(lines: list[Any], names: Collection[str]) -> list[Any]:
    """Return a wrapper's lines with the allocations of some buffers moved ahead of the fork, to the caller's stream.

    Any stream may use such a buffer as soon as it is forked.
    """
    return _ahead_of_fork(lines, [line for line in lines if _allocates(line, names)])


def outputs_first(lines: list[Any], outputs: set[str]) -> list[Any]:
    """Return a wrapper's lines with the allocations of what it returns moved ahead of the fork, to the caller's stream.

    A block that the caller's stream allocated may be dropped by anyone at any time. A block of an aux stream would be handed
    to work that has waited for the fork only, not for what others have enqueued since to read the output.
    """
    moved, on_aux = [], False
    for line in lines:
        if isinstance(line, wrapper.EnterCudaStreamContextLine):
            on_aux = line.stream_idx != 0
        elif isinstance(line, wrapper.ExitCudaStreamContextLine):
            on_aux = False
        elif on_aux and _allocates(line, outputs):
            moved.append(line)
    return _ahead_of_fork(lines, moved)


def _allocates(line: Any, names: Collection[str]) -> bool:
    return isinstance(line, wrapper.AllocateLine) and line.node.get_name() in names


def _ahead_of_fork(lines: list[Any], moved: list[Any]) -> list[Any]:
    start = next((i for i, line in enumerate(lines, 1) if isinstance(line, EnterDeviceLine)), None)
    if start is None:
        return lines
    return [*lines[:start], *moved, *(line for line in lines[start:] if not any(line is each for each in moved))]
