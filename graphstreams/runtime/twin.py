"""Two compiled graphs of one FX graph, streamed and serial, of which each call runs the one that its size asks for.

Both were compiled from the same graph for the same inputs, so they share parameters and caches: they take the same list of
inputs and mutate the same ones. To Inductor's and AOTAutograd's caches a `Twin` is one compiled graph: it is kept under one
key with both halves inside, so that another process loads both and decides as this one does.

Read in torch 2.15.0: `_inductor/output_code.py` (CompiledFxGraph), `_inductor/codecache.py` (FxGraphCache),
`_functorch/_aot_autograd/aot_autograd_result.py`. None of them calls more of a compiled graph than what is defined here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch._guards import TracingContext
from torch._inductor.output_code import CompiledFxGraph, OutputCode


@dataclass(frozen=True)
class Dispatch:
    """Where a call's size is read, and for which sizes the streamed graph runs."""

    size: str  # Python, from the list `inputs`: "inputs[1]", or "inputs[2].shape[0]"
    largest: int | None = None  # None: no limit
    smallest: int = 0

    def streams(self) -> Callable[[Sequence[Any]], bool]:
        """A function that tells from a call's inputs whether the streamed graph runs."""
        above = f"{self.smallest} <= " if self.smallest else ""
        below = "" if self.largest is None else f" <= {self.largest}"
        # The text holds numbers, and what `size_source` wrote.
        return eval(f"lambda inputs: {above}{self.size}{below}")  # type: ignore[no-any-return]


def size_source(size: str, inputs: Sequence[Any]) -> str:
    """Python that computes `size`, an expression in the dynamic sizes, from a list of a graph's inputs.

    `inputs` are the ones that the graph was traced with: a SymInt where a call will have an int, and fake tensors. Nothing
    is compared or made an int, so no size is specialised. Raises ValueError where no input tells a size that is needed.
    """
    known = _sizes_of(inputs)
    if size in known:
        return known[size]
    expression = sympy.sympify(size)
    symbols = sorted(expression.free_symbols, key=str)
    missing = [str(symbol) for symbol in symbols if str(symbol) not in known]
    if missing or not expression.is_polynomial(*symbols):
        raise ValueError(f"no input of the graph tells {missing[0] if missing else size!r}")
    places = {symbol: sympy.Symbol(known[str(symbol)]) for symbol in symbols}
    return f"({sympy.sstr(expression.xreplace(places))})"


def _sizes_of(inputs: Sequence[Any]) -> dict[str, str]:
    """For each size that an input tells, Python that reads it there: an int where there is one, else a tensor's shape."""
    known: dict[str, str] = {}
    for index, value in enumerate(inputs):
        if isinstance(value, torch.SymInt):
            known[str(value.node.expr)] = f"inputs[{index}]"
    for index, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            for dimension, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    known.setdefault(str(size.node.expr), f"inputs[{index}].shape[{dimension}]")
    return known


class Twin(CompiledFxGraph):
    """A streamed and a serial compiled graph behind one call.

    A subclass, since Inductor's cache takes nothing else. What the caches ask of a compiled graph and is not defined here,
    the streamed half answers.
    """

    def __init__(self, streamed: OutputCode, serial: OutputCode, dispatch: Dispatch) -> None:
        """Both halves before `post_compile`, as Inductor makes them."""
        self.streamed, self.serial, self.dispatch = streamed, serial, dispatch
        self._streams = dispatch.streams()
        self._boxed_call = True

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run one half. `inputs` is a list that it may empty."""
        return self.streamed(inputs) if self._streams(inputs) else self.serial(inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "streamed" not in vars(self):
            raise AttributeError(name)
        return getattr(self.streamed, name)

    def __del__(self) -> None:
        """Each half frees what it holds."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_streams"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._streams = self.dispatch.streams()

    def post_compile(self, example_inputs: Sequence[Any], constants: Any, graph_kwargs: Any) -> None:
        """Make both halves ready to be called: recorded CUDA graphs, where they are on, belong to each."""
        self.streamed.post_compile(example_inputs, constants, graph_kwargs)
        # The strides of the outputs may be reported once, and both halves have the same.
        with TracingContext.report_output_strides():
            self.serial.post_compile(example_inputs, constants, graph_kwargs)

    def prepare_for_serialization(self) -> None:
        """Drop what cannot be pickled. This object is a copy, its halves still are those of the original."""
        for name in ("streamed", "serial"):
            half = copy.copy(getattr(self, name))
            half.prepare_for_serialization()
            setattr(self, name, half)

    def after_deserialization(self, constants: Any) -> str:
        """Load the code of both halves; returns the path of the streamed one's."""
        path: str = self.streamed.after_deserialization(constants)  # type: ignore[attr-defined]
        self.serial.after_deserialization(constants)  # type: ignore[attr-defined]
        return path

    def write_to_disk(self) -> str:
        """Write the code of both halves to Inductor's folder; returns the path of the streamed one's."""
        path: str = self.streamed.write_to_disk()  # type: ignore[attr-defined]
        self.serial.write_to_disk()  # type: ignore[attr-defined]
        return path

    def _set_compile_context_for_autotune_cache(self) -> None:
        self.streamed._set_compile_context_for_autotune_cache()  # type: ignore[attr-defined]
