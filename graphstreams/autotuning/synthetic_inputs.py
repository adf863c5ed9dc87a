"""Makes inputs to measure with if the real ones are not known: their layout decides the time of most kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.inductor.exclusivity import is_own
from graphstreams.ir.declarations import Declarations, resources_of

MOST_MEMORY = 0.25  # share of the free memory that inputs may take


@dataclass(frozen=True)
class Layout:
    """A tensor without its values, as plain data."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str  # "bfloat16"
    device: str  # "cuda:0"

    @staticmethod
    def of(value: torch.Tensor, sizes: Mapping[str, int] | None = None) -> Layout:
        """Return the layout of `value`, which may be a fake tensor; `sizes` as for `concrete`."""
        shape, strides = (tuple(concrete(size, sizes) for size in of) for of in (value.shape, value.stride()))
        return Layout(shape, strides, str(value.dtype).removeprefix("torch."), str(value.device))

    @property
    def bytes(self) -> int:
        """Return the memory from its first element to its last."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return 0 if 0 in self.shape else (last + 1) * getattr(torch, self.dtype).itemsize

    def empty(self) -> torch.Tensor:
        """Return a tensor without initialized values."""
        return torch.empty_strided(self.shape, self.strides, dtype=getattr(torch, self.dtype), device=self.device)

    def synthesize(self) -> torch.Tensor:
        """Return normal random numbers, each time the same; zeros for integers, which are valid indices if there are any."""
        value = self.empty()
        if value.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            # From a generator of its own, because a compile must not change the caller's random numbers.
            return value.normal_(generator=torch.Generator(value.device).manual_seed(0))
        return value.zero_()


def synthetic_inputs(gm: fx.GraphModule, declared: Declarations = ()) -> list[Any]:
    """Return inputs for the function that a post-grad graph was compiled from, in its order, made from shapes alone.

    There are none if the graph holds an operator of another library that is not declared as pure: what that does with such
    values is not known; nor if they would take too much memory. An input that AOTAutograd does not tell the place of stays
    unknown, and so the graph is not measured.
    """
    nodes = list(gm.graph.nodes)
    called = {node.target for node in nodes if isinstance(node.target, torch._ops.OpOverload) and not is_own(node.target)}
    if any(resources_of(operator._schema.name, declared) != () for operator in called):
        return []
    places = {node: getattr(node.meta.get("desc"), "idx", None) for node in nodes if node.op == "placeholder"}
    given = {index: node.meta.get("val") for node, index in places.items() if index is not None}
    layouts = {index: Layout.of(value) for index, value in given.items() if isinstance(value, torch.Tensor)}
    with unset_fake_temporarily():
        if sum(layout.bytes for layout in layouts.values()) > MOST_MEMORY * torch.cuda.mem_get_info()[0]:
            return []
        made = {index: layout.synthesize() for index, layout in layouts.items()}
        return [made.get(index, concrete(given.get(index))) for index in range(max(given, default=-1) + 1)]


def concrete(size: Any, sizes: Mapping[str, int] | None = None) -> Any:
    """Return the number that a size stands for in the example, or with other values for some dynamic sizes."""
    if not isinstance(size, torch.SymInt | torch.SymFloat):
        return size
    if not sizes or not isinstance(size, torch.SymInt):
        return size.node.hint
    expression, shape_env = size.node.expr, size.node.shape_env
    assert shape_env is not None
    known = {s: sizes.get(str(s), shape_env.backed_var_to_val.get(s)) for s in expression.free_symbols}
    return int(expression.xreplace({symbol: sympy.Integer(value) for symbol, value in known.items()}))


def synthesize(argument: Any) -> Any:
    """Return a number as it is, and for the fields of a layout, a dict, a tensor with synthetic values."""
    return Layout(**argument).synthesize() if isinstance(argument, dict) else argument
