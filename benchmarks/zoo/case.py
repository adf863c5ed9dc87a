"""Define what a case is: a function that makes a model of some library, with random weights, and the inputs of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
Made = tuple[nn.Module, Inputs]
Build = Callable[[bool], Made]  # takes whether the model is to be tiny, so that it can be run on the CPU


@dataclass(frozen=True)
class Dynamic:
    """The sizes that a call chooses: what a user would mark, and calls of other sizes."""

    marks: tuple[tuple[int, int], ...]  # (input, dimension), all of one size; a tiny size may have fewer inputs
    others: tuple[int, ...]  # sizes whose bits are compared too, smaller and larger than the tiny one's
    resize: Callable[[Inputs, int], Inputs] | None = None  # the inputs with another size; by default cut or repeated

    def marked(self, inputs: Inputs) -> Inputs:
        """Return the inputs with their dynamic sizes marked for Dynamo."""
        for place, dimension in self._within(inputs):
            torch._dynamo.mark_dynamic(inputs[place], dimension)
        return inputs

    def resized(self, inputs: Inputs, size: int) -> Inputs:
        """Return marked inputs of another size."""
        if self.resize is not None:
            return self.marked(self.resize(inputs, size))
        found = list(inputs)
        for place, dimension in self._within(inputs):
            kept = torch.arange(size) % inputs[place].shape[dimension]
            found[place] = inputs[place].index_select(dimension, kept)
        return self.marked(tuple(value.clone() for value in found))

    def other_calls(self, inputs: Inputs) -> Iterator[Inputs]:
        """Yield the inputs of calls of the other sizes."""
        yield from (self.resized(inputs, size) for size in self.others)

    def _within(self, inputs: Inputs) -> list[tuple[int, int]]:
        return [mark for mark in self.marks if mark[0] < len(inputs)]


@dataclass(frozen=True)
class Case:
    """One model and one call of it. Nothing is imported of its library before it is built."""

    name: str
    library: str  # the module whose version is told with the results
    build: Build
    meta: bool = False  # whether the full size is built without memory for its tensors, because no value in it matters
    quick: bool = False  # whether it is one of the few that `--quick` plans
    dynamic: Dynamic | None = None  # which sizes are dynamic; on a GPU none are

    def make(self, tiny: bool) -> Made:
        """Return the model, ready for inference, and its inputs; the same weights and inputs at each call."""
        torch.manual_seed(0)
        with torch.device("meta" if self.meta and not tiny else "cpu"):
            module, inputs = self.build(tiny)
        if self.dynamic is not None:
            inputs = self.dynamic.marked(inputs)
        return module.eval().requires_grad_(False), inputs

    def make_on(self, device: str) -> Made:
        """Return the full size on a device, with values: the same weights and inputs at each call."""
        torch.manual_seed(0)
        with torch.device(device if self.meta else "cpu"):
            module, inputs = self.build(False)
        return module.eval().requires_grad_(False).to(device), tuple(value.to(device) for value in inputs)


def halves(*shape: int) -> Tensor:
    """Return random numbers in bfloat16."""
    return torch.randn(*shape).to(torch.bfloat16)


def in_halves(module: nn.Module) -> nn.Module:
    """Return a model with its weights in bfloat16."""
    return module.to(torch.bfloat16)
