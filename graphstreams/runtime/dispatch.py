"""Decide which of the two bodies of a wrapper a call runs: the streamed one or Inductor's serial one.

Generated code calls `runs_on_streams` at the start of the function that launches the kernels. Both bodies are generated from
the same graph, so they share parameters and caches. Read in torch 2.15.0: `_inductor/runtime/triton_heuristics.py`
(CachingAutotuner), `torch/csrc/cuda/Module.cpp` (_cuda_isCurrentStreamCapturing).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

_capturing = getattr(torch._C, "_cuda_isCurrentStreamCapturing", None)  # missing from a torch without CUDA


@dataclass(frozen=True)
class Dispatch:
    """The calls for which the streamed body runs."""

    direct: bool = False  # also if the host launches the kernels, not only while a CUDA graph is captured
    size: str | None = None  # Python that reads a call's size from the list `inputs`, such as "inputs[2].shape[0]"
    largest: int | None = None  # the largest size that runs on streams; None: no limit
    smallest: int = 0

    @property
    def condition(self) -> str:
        """The arguments of `runs_on_streams` after the list of inputs, as Python."""
        limits = (self.size, self.largest, self.smallest)
        values = (self.direct, *(limits if self.size is not None else ()))
        return ", ".join(map(repr, values))


def runs_on_streams(
    inputs: Sequence[Any], direct: bool, size: str | None = None, largest: int | None = None, smallest: int = 0
) -> bool:
    """Return whether a call with `inputs` runs the streamed body. The fields of `Dispatch` say when.

    What counts is whether the current stream of the current device is being captured: one C call, which is all that most calls
    need.
    """
    if not direct and not _capturing():  # type: ignore[misc]
        return False
    return size is None or (smallest <= _reader(size)(inputs) and (largest is None or _reader(size)(inputs) <= largest))


@functools.cache
def _reader(size: str) -> Callable[[Sequence[Any]], int]:
    # `size_source` wrote the text into the wrapper.
    return eval(f"lambda inputs: {size}")  # type: ignore[no-any-return]


def size_source(size: str, known: Mapping[str, str]) -> str:
    """Return Python that computes `size`, an expression in the dynamic sizes, from a list of inputs.

    `known` has the Python for each dynamic size, as `sizes_of` returns it. No size is specialized.
    Raises ValueError if no input tells a size that is needed.
    """
    if size in known:
        return known[size]
    expression = sympy.sympify(size)
    symbols = sorted(expression.free_symbols, key=str)
    missing = [str(symbol) for symbol in symbols if str(symbol) not in known]
    if missing or not expression.is_polynomial(*symbols):
        raise ValueError(f"no input of the graph tells {missing[0] if missing else size!r}")
    places = {symbol: sympy.Symbol(known[str(symbol)]) for symbol in symbols}
    return f"({sympy.sstr(expression.xreplace(places))})"


def sizes_of(inputs: Sequence[Any]) -> dict[str, str]:
    """Return, for each dynamic size that an input tells, Python that reads it: from an int if there is one, else from a shape.

    `inputs` are those that the graph was traced with: fake tensors, and for each int of a call a SymInt or the name of a size.
    No size is compared or converted to an int, so none is specialized.
    """
    known: dict[str, str] = {}
    for index, value in enumerate(inputs):
        if isinstance(value, torch.SymInt | str):
            known[value if isinstance(value, str) else str(value.node.expr)] = f"inputs[{index}]"
    for index, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            for dimension, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    known.setdefault(str(size.node.expr), f"inputs[{index}].shape[{dimension}]")
    return known


def cannot_settle() -> str:
    """Return why `settle` can't reduce this torch's Triton kernels to one configuration; empty if it can."""
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    missing = [name for name in ("precompile", "autotune_to_one_config") if not hasattr(CachingAutotuner, name)]
    return f"this torch's CachingAutotuner has no {missing[0]}: its kernels are tuned in another way" if missing else ""


def settle(*kernels: Any) -> None:
    """Load Triton kernels that only the streamed body launches: a capture, in which they may run first, can't compile any.

    One of a single configuration is not tuned any more. Of several, `adopt` chooses.
    """
    for kernel in kernels:
        kernel.precompile()
        if len(kernel.launchers) == 1:
            _keep(kernel.launchers[0])


def adopt(kernel: Any, like: Any = None) -> None:
    """In a capture, reduce a kernel that only the streamed body launches to one configuration, since none can be timed there.

    It is the one that `like` was tuned to, the serial body's kernel with the same operators and sizes; otherwise the first.
    Elsewhere Inductor tunes the kernel when it is launched.
    """
    if len(kernel.launchers) < 2 or not _capturing():  # type: ignore[misc]
        return
    tuned = _described(like.launchers[0]) if like is not None and len(like.launchers) == 1 else None
    alike = [launcher for launcher in kernel.launchers if _described(launcher) == tuned]
    chosen = (alike or kernel.launchers)[0]
    kernel.launchers = [chosen]
    _keep(chosen)


def _described(launcher: Any) -> tuple[Any, ...]:
    config = launcher.config
    return dict(config.kwargs), config.num_warps, config.num_stages


def _keep(launcher: Any) -> None:
    """Let Inductor not go on to tune what it has."""
    launcher.config.found_by_coordesc = True
    launcher.config.found_by_combo_autotune = True
