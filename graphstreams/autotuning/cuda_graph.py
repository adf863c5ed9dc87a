"""A function captured in a CUDA graph by hand, and what takes values into and out of such a graph."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Within this context no garbage is collected by itself.

    Generated code that is garbage takes its kernels along, and CUDA ends a capture during which a kernel is unloaded.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Captured:
    """A function in a CUDA graph, with inputs of its own.

    `inputs` stay where they are, and `outputs` until it is captured again: a replay reads the former, writes the latter, and
    changes what inputs the function changes. `outputs` are the leaves of the function's result. Code that Dynamo has compiled
    for the function has to stay in Inductor's caches for as long as there are replays.
    """

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        """Call `function` three times on clones of `values`, then capture a fourth call.

        Raises RuntimeError without a GPU, and what the function or the capture raises.
        """
        self.graph = torch.cuda.CUDAGraph()  # goes first when this goes, before what it launches
        self.function, self.inputs = function, clones(values)
        # What a library or a wrapper makes for each stream has to be there before the capture, so it is on the same stream.
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._capture()

    def capture_again(self) -> None:
        """Let another graph of the same launches take the place of this one, with other `outputs`.

        Two captures differ in time, where the graph has branches by up to 2 % (H200). Raises what the capture raises.
        """
        self.outputs: list[Any] = []
        self.graph = torch.cuda.CUDAGraph()
        self._capture()

    def _capture(self) -> None:
        with no_collection(), torch.cuda.graph(self.graph, stream=self._stream):
            self.outputs = leaves(self.function(*self.inputs))

    def replay(self) -> None:
        """Enqueue the graph on the current stream."""
        self.graph.replay()

    def load(self, values: Sequence[Any]) -> None:
        """Copy fresh values into the inputs. Raises ValueError where there are more or fewer of them."""
        copy_into(self.inputs, values)


def clones(values: Sequence[Any]) -> list[Any]:
    """The values, with copies of the tensors among them."""
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in values]


def copy_into(targets: Sequence[Any], values: Sequence[Any]) -> None:
    """Copy values into tensors that stay where they are; targets of other types are left alone.

    Raises ValueError where there are more or fewer values than targets.
    """
    for target, value in zip(targets, values, strict=True):
        if isinstance(target, torch.Tensor):
            target.copy_(value)


def leaves(result: Any) -> list[Any]:
    """What a nested result holds, in order."""
    return list(torch.utils._pytree.tree_leaves(result))


class CudaGraph:
    """A captured CUDA graph, and the function that it was captured from, which holds what the graph launches.

    A kernel that nothing refers to any more is unloaded (read in triton 3.9.0, `compiler/compiler.py`, and torch 2.15.0,
    `_inductor/runtime/static_triton_launcher.py`), and CUDA does not say that a graph keeps it. Small graphs were
    still replayed with all their kernels unloaded (H200, driver 580); one process ended in the replay of a large one.
    """

    def __init__(self, function: Callable[[], Any], keep_graph: bool) -> None:
        self.captured = torch.cuda.CUDAGraph(keep_graph=keep_graph)
        self.function = function

    def replay(self) -> None:
        """Enqueue the graph on the current stream."""
        self.captured.replay()
