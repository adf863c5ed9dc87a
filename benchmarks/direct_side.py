"""A compiled function in a CUDA graph, and the comparison of bits, for a process of `direct.py`.

It uses nothing of the package, whose version the process doesn't know.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collect no garbage within this context: it costs time, and ends a capture if it unloads a kernel."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Side:
    """A compiled function with inputs of its own, launched by the host and as a CUDA graph."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        """Call and capture `function` on copies of `values`. Raises what these raise."""
        self.graph = torch.cuda.CUDAGraph()  # the first attribute, so that it goes before its kernels
        function(*copies(values))  # compiles, on the stream that the program is on
        self.function, self.inputs = function, copies(values)
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # libraries allocate for each stream, and may not do so in a capture
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self.capture()

    def capture(self) -> None:
        """Capture the function, anew if it has been captured before."""
        self.outputs: list[Any] = []
        self.graph = torch.cuda.CUDAGraph()
        with no_collection(), torch.cuda.graph(self.graph, stream=self._stream):
            self.outputs = leaves(self.function(*self.inputs))

    def load(self, values: Sequence[Any]) -> None:
        """Copy values into the inputs."""
        for own, value in zip(self.inputs, values, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(value)

    def direct(self) -> None:
        """Call the function."""
        self.function(*self.inputs)

    def replay(self) -> None:
        """Replay the CUDA graph."""
        self.graph.replay()

    def results(self, values: Sequence[Any], way: str) -> list[Any]:
        """Return outputs and changed inputs on fresh inputs, by the way "graph" or "direct"."""
        self.load(values)
        if way == "direct":
            return [*leaves(self.function(*self.inputs)), *self.inputs]
        self.replay()
        return [*self.outputs, *self.inputs]


def equal_bits(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two lists of tensors and numbers agree in type, shape and every bit."""
    return len(first) == len(second) and all(_equal(*pair) for pair in zip(first, second, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return type(one) is type(other) and one == other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))


def copies(values: Sequence[Any]) -> list[Any]:
    """Return the values, with copies of the tensors among them."""
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in values]


def leaves(result: Any) -> list[Any]:
    """Return what a nested result holds, in order."""
    return list(torch.utils._pytree.tree_leaves(result))
