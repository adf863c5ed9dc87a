"""Two compiled graphs of one FX graph, streamed and serial, of which each call runs the one that its size asks for.

Both were compiled from the same graph for the same inputs, so they share parameters and caches: they take the same list of
inputs and mutate the same ones. Read in torch 2.15.0: `_inductor/output_code.py` (OutputCode),
`_functorch/_aot_autograd/graph_compile.py` (_should_save_cache).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache
from torch._inductor.output_code import OutputCode

NAME = "GRAPHSTREAMS_DISPATCH"  # in the source of a streamed wrapper whose graph has a serial twin


@dataclass(frozen=True)
class Dispatch:
    """Where a call's size is read, and for which sizes the streamed graph runs.

    The streamed wrapper's source carries it, so that it is known also where the graph comes from a cache.
    """

    size: str  # Python, from the list `inputs`: "inputs[1]", or "inputs[2].shape[0]"
    largest: int | None = None  # None: no limit
    smallest: int = 0

    @property
    def line(self) -> str:
        """The line of the wrapper that says so."""
        return f"{NAME} = {(self.size, self.largest, self.smallest)!r}"

    @staticmethod
    def of(source: str) -> Dispatch | None:
        """What the source of a wrapper says, None where it says nothing."""
        found = re.search(rf"^{NAME} = (\(.*\))$", source, re.MULTILINE)
        return Dispatch(*ast.literal_eval(found[1])) if found else None

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


class Twin(OutputCode):
    """A streamed and a serial compiled graph behind one call.

    Inductor keeps each half in its cache under a key of its own. AOTAutograd's cache, which would keep one of them, gets none.
    """

    def __init__(self, streamed: OutputCode, serial: OutputCode, dispatch: Dispatch) -> None:
        """Both halves ready to be called."""
        super().__init__()
        self.streamed, self.serial, self.dispatch = streamed, serial, dispatch
        self._streams = dispatch.streams()
        self._boxed_call = True

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run one half. `inputs` is a list that it may empty."""
        return self.streamed(inputs) if self._streams(inputs) else self.serial(inputs)

    def prepare_for_serialization(self) -> None:
        """Raise BypassAOTAutogradCache: the halves are kept elsewhere."""
        raise BypassAOTAutogradCache("a streamed graph with a serial twin is kept in Inductor's cache, half by half")
