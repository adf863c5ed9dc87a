"""Stand fake CUDA tensors in for all tensors that a module and its inputs hold, for as long as a graph is captured.

A fake tensor has the size, strides, dtype and offset of a tensor and no memory. Tensors that share memory get fakes that share
a storage, because a compiler has to see that one's write is the other's. Read in torch 2.15.0: `_subclasses/fake_tensor.py`,
`_subclasses/meta_utils.py`, `utils/_python_dispatch.py`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass

from graphstreams.errors import CannotPlan

CUDA = torch.device("cuda:0")
_PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)
_TABLES = ("_parameters", "_buffers", "_modules")  # of a module
_LEAVES = (
    str, bytes, int, float, complex, type, type(None), types.ModuleType, types.BuiltinFunctionType, torch.dtype, torch.Size,
    torch.Generator, torch.UntypedStorage,
)  # fmt: skip


# Objects of these packages hold no tensors of a model, but all that there is in a process: functions' globals, loaders, caches.
_OUTSIDE = (
    sys.stdlib_module_names - {"builtins", "collections", "functools", "types"}
) | {"triton", "torch._dynamo", "torch._inductor", "torch._C", "torch.fx", "torch.distributed"}  # fmt: skip


@contextlib.contextmanager
def faked(function: Callable[..., Any], inputs: Any, mode: FakeTensorMode) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Return `function` and `inputs` with fake CUDA tensors for those that they hold, for use inside the context.

    Tensors are looked for in modules, functions' closures and the tensors that their code names, lists, tuples, dicts and
    attributes of objects. Those that can be changed are changed in place, inside the context only.
    Raises CannotPlan, with the tensor's place, for an input, a parameter or a buffer that is not dense or of a class that torch
    can't take apart. Of other attributes, which may not be used, such tensors stay as they are.
    """
    with contextlib.ExitStack() as undo:
        stand_ins = _StandIns(mode, undo)
        called = function.__func__ if isinstance(function, types.MethodType) else function
        if isinstance(called, types.FunctionType):
            stand_ins.replace_globals(called)
        name = "module" if isinstance(function, torch.nn.Module) else "function"
        yield stand_ins.replaced(function, name), stand_ins.replaced(inputs, "inputs")


class _StandIns:
    """What stands in for each object that was looked at, by its id."""

    def __init__(self, mode: FakeTensorMode, undo: contextlib.ExitStack) -> None:
        self._mode, self._undo = mode, undo
        self._known: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._storages: dict[int, torch.UntypedStorage] = {}

    def replaced(self, value: Any, place: str) -> Any:
        """Return `value` with fakes for its tensors. `place` is where it was found, for a message."""
        if isinstance(value, _LEAVES) or _is_outside(value):
            return value
        if id(value) not in self._known:
            self._kept.append(value)
            self._known[id(value)] = value  # for what holds itself
            try:
                self._known[id(value)] = self._new(value, place)
            except CannotPlan:
                del self._known[id(value)]
                raise
        return self._known[id(value)]

    def replace_globals(self, function: types.FunctionType) -> None:
        """Replace the tensors at a function's module level that its code names."""
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, torch.Tensor):
                self._set(function.__globals__, name, self.replaced(value, name))

    def _new(self, value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor):
            return self._fake(value, place)
        if isinstance(value, tuple):
            return self._new_tuple(value, place)
        if isinstance(value, list | deque):
            self._replace_in(value, enumerate(list(value)), lambda key: f"{place}[{key}]")
        elif isinstance(value, dict):
            self._replace_in(value, list(value.items()), lambda key: f"{place}[{key!r}]")
        elif isinstance(value, torch.nn.Module):
            for table in (getattr(value, name) for name in _TABLES):
                self._replace_in(table, list(table.items()), lambda key: f"{place}.{key}")
        for cell in getattr(value, "__closure__", None) or () if isinstance(value, types.FunctionType) else ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._set_attribute(cell, "cell_contents", self.replaced(cell.cell_contents, place))
        if isinstance(value, types.MethodType):
            self.replaced(value.__self__, place)
        if isinstance(value, functools.partial):
            arguments = self.replaced(value.args, f"{place}.args"), self.replaced(value.keywords, f"{place}.keywords")
            return functools.partial(self.replaced(value.func, place), *arguments[0], **arguments[1])
        self._replace_attributes(value, place)
        return value

    def _new_tuple(self, value: tuple[Any, ...], place: str) -> Any:
        found = [self.replaced(each, f"{place}[{number}]") for number, each in enumerate(value)]
        if all(one is other for one, other in zip(found, value, strict=True)):
            return value
        return type(value)._make(found) if hasattr(value, "_make") else type(value)(found)

    def _replace_in(self, holder: Any, items: Any, named: Callable[[Any], str]) -> None:
        for key, value in items:
            if (new := self.replaced(value, named(key))) is not value:
                self._set(holder, key, new)

    def _replace_attributes(self, value: Any, place: str) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            devices = {each.device for each in own.values() if isinstance(each, torch.Tensor)}
            others = [
                (name, each) for name, each in own.items() if name not in _TABLES or not isinstance(value, torch.nn.Module)
            ]
            for name, each in others:
                with contextlib.suppress(CannotPlan):
                    self._replace_in(own, [(name, each)], lambda key: f"{place}.{key}")
            for name, each in own.items():  # where it makes new ones beside those that it holds
                if isinstance(each, torch.device) and each in devices:
                    self._set(own, name, CUDA)
        for kind in type(value).__mro__:
            for name, slot in vars(kind).items():
                if isinstance(slot, types.MemberDescriptorType) and kind.__module__ != "builtins":
                    with contextlib.suppress(AttributeError, CannotPlan):  # an empty slot, or one that can't be written
                        old = getattr(value, name)
                        if (new := self.replaced(old, f"{place}.{name}")) is not old:
                            self._set_attribute(value, name, new)

    def _set(self, holder: Any, key: Any, new: Any) -> None:
        self._undo.callback(holder.__setitem__, key, holder[key])
        holder[key] = new

    def _set_attribute(self, holder: Any, name: str, new: Any) -> None:
        old = getattr(holder, name)
        if new is not old:
            object.__setattr__(holder, name, new)
            self._undo.callback(object.__setattr__, holder, name, old)

    def _fake(self, tensor: torch.Tensor, place: str) -> torch.Tensor:
        if is_traceable_wrapper_subclass(tensor):
            return _as_parameter(
                transform_subclass(tensor, lambda name, inner: self.replaced(inner, f"{place}.{name}")), tensor
            )
        if type(tensor) not in _PLAIN or torch.nn.parameter.is_lazy(tensor):
            raise CannotPlan(f"{place} is a {type(tensor).__name__}, which torch can't take apart; make a plain tensor of it")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            kind = (
                "quantized" if tensor.is_quantized else "a lazy view" if tensor.layout == torch.strided else str(tensor.layout)
            )
            raise CannotPlan(f"{place} is {kind}; only dense tensors can be planned")
        return _as_parameter(dense_fake(tensor, self._mode, self._storages), tensor)


def _is_outside(value: Any) -> bool:
    kind = type(value).__module__
    names = {kind.partition(".")[0], ".".join(kind.split(".")[:2])}
    return not (names.isdisjoint(_OUTSIDE) or isinstance(value, torch.nn.Module)) or (
        isinstance(value, dict) and "__builtins__" in value
    )


def dense_fake(tensor: torch.Tensor, mode: FakeTensorMode, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Return a fake CUDA tensor like a dense one. `storages` has the fake storage of each that was seen, by its address."""
    storage = tensor.untyped_storage()
    with mode:
        if storage._cdata not in storages:
            storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8, device=CUDA).untyped_storage()
        empty = torch.empty(0, dtype=tensor.dtype, device=CUDA)
        return empty.set_(storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())


def _as_parameter(fake: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
