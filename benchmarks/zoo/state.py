"""Keep what a model changes between calls, such as the caches of a decoder, to put it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class State:
    """The tensors that a model holds and may change: buffers, and those in plain objects, such as a cache."""

    def __init__(self, module: nn.Module) -> None:
        """Keep a copy of each."""
        parameters = {id(parameter) for parameter in module.parameters()}
        self.tensors = [tensor for tensor in _tensors(module, set()) if id(tensor) not in parameters]
        self._kept = [tensor.clone() for tensor in self.tensors]
        self._numbers = [(each, name, number) for each in _holders(module, set()) for name, number in _integers(each)]

    def restore(self) -> None:
        """Give all tensors and counters the values that they had."""
        self.restore_counters()
        for tensor, kept in zip(self.tensors, self._kept, strict=True):
            tensor.copy_(kept)

    def restore_counters(self) -> None:
        """Give counters, in tensors and objects, the values that they had: if they grow, a cache is full after some calls."""
        for tensor, kept in zip(self.tensors, self._kept, strict=True):
            if tensor.numel() == 1 and not tensor.is_floating_point():
                tensor.copy_(kept)
        for holder, name, number in self._numbers:
            setattr(holder, name, number)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen or isinstance(value, str | bytes | int | float | type):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    for part in _parts(value):
        yield from _tensors(part, seen)


def _holders(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the objects of a models' library that are no modules: a cache and its layers."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | Tensor):
        return
    seen.add(id(value))
    if not isinstance(value, nn.Module | list | tuple | dict) and _parts(value):
        yield value
    for part in _parts(value):
        yield from _holders(part, seen)


def _integers(holder: Any) -> list[tuple[str, int]]:
    return [(name, number) for name, number in vars(holder).items() if type(number) is int]


def _parts(value: Any) -> list[Any]:
    """Return what a container, a module or an object of a models' library holds."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    library = type(value).__module__.partition(".")[0]
    holds = isinstance(value, nn.Module) or library in ("transformers", "diffusers", "benchmarks")
    return list(vars(value).values()) if holds and hasattr(value, "__dict__") else []
