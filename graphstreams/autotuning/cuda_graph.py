"""Captures functions in CUDA graphs by hand, and copies values into and out of them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Disable automatic garbage collection within this context.

    The kernels of generated code are unloaded with it, and CUDA ends a capture during which a kernel is unloaded.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CudaGraph:
    """A captured CUDA graph, and the function that it was captured from, which holds what the graph launches.

    A kernel is unloaded once nothing refers to it (read in triton 3.9.0, `compiler/compiler.py`, and torch 2.15.0,
    `_inductor/runtime/static_triton_launcher.py`), and CUDA does not promise that a graph keeps it. Small graphs could
    still be replayed with all their kernels unloaded (H200, driver 580); one process ended in the replay of a large one.
    """

    def __init__(
        self, function: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None, keep_graph: bool = False
    ) -> None:
        """Wait for the GPU, and capture what `function` enqueues on `stream`.

        `pool` and `keep_graph` are as for `torch.cuda.CUDAGraph`. Raises what the function or the capture raises.
        """
        self.graph = torch.cuda.CUDAGraph(keep_graph=keep_graph)  # the first attribute, so that it goes before its kernels
        self.function = function
        self.overhead_us = 0.0  # us of a replay that don't count when it is timed
        torch.cuda.synchronize()
        with torch.cuda.stream(stream), no_collection():
            # Other threads, such as those of Inductor's compilation, may use the device meanwhile.
            self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                function()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which the interrupted capture raises again
                    self.graph.capture_end()
                raise
            self.graph.capture_end()

    def replay(self) -> None:
        """Enqueue the graph on the current stream."""
        self.graph.replay()


class CapturedFunction:
    """A function in a CUDA graph, with inputs and outputs of its own.

    A replay reads `inputs`, changes those that the function changes, and writes `outputs`, the leaves of the function's result.
    The inputs stay where they are, the outputs until the function is captured again. Code that Dynamo has compiled for the
    function has to stay in Inductor's caches for as long as there are replays.
    """

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        """Call `function` three times on clones of `values`, then capture a fourth call.

        Raises RuntimeError without a GPU, and what the function or the capture raises.
        """
        self.function, self.inputs = function, clones(values)
        # The calls are on the stream of the capture, because libraries and wrappers keep resources for each stream.
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._capture()

    def capture_again(self) -> None:
        """Replace the graph by another capture of the same launches, with other `outputs`.

        Two captures of a graph with branches differ in time by up to 2 % (H200). Raises what the capture raises.
        """
        del self.graph, self.outputs  # which frees their memory before the next capture
        self._capture()

    def _capture(self) -> None:
        outputs: list[Any] = []
        function, inputs = self.function, self.inputs  # by themselves: a reference to `self` would be a cycle
        torch.cuda.empty_cache()  # the capture cannot use cached memory
        self.graph = CudaGraph(lambda: outputs.extend(leaves(function(*inputs))), self._stream)
        self.outputs = outputs

    def replay(self) -> None:
        """Enqueue the graph on the current stream."""
        self.graph.replay()

    def load(self, values: Sequence[Any]) -> None:
        """Copy fresh values into the inputs. Raises ValueError for another number of values."""
        copy_into(self.inputs, values)


def clones(values: Sequence[Any]) -> list[Any]:
    """Return the values, with copies of the tensors among them."""
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in values]


def copy_into(targets: Sequence[Any], values: Sequence[Any]) -> None:
    """Copy values into tensors that stay where they are; targets of other types are left alone.

    Raises ValueError if there are more or fewer values than targets.
    """
    for target, value in zip(targets, values, strict=True):
        if isinstance(target, torch.Tensor):
            target.copy_(value)


def leaves(result: Any) -> list[Any]:
    """Return what a nested result holds, in order."""
    return list(torch.utils._pytree.tree_leaves(result))
