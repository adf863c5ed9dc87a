"""Stand fake CUDA tensors in for all tensors that a module and its inputs hold, for as long as a graph is captured.

A fake tensor has the size, strides, dtype and offset of a tensor and no memory. Tensors that share memory get fakes that share
a storage, because a compiler has to see that one's write is the other's. What the captured call does to objects is undone, as
it leaves fakes in them. Read in torch 2.15.0: `_subclasses/fake_tensor.py`, `_subclasses/meta_utils.py`,
`utils/_python_dispatch.py`, `_dynamo/eval_frame.py` (innermost_fn).
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dynamo.eval_frame import innermost_fn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass

from graphstreams.errors import CannotPlan
from graphstreams.inductor.object_state import (
    MISSING,
    attributes_of,
    class_restorer,
    is_outside,
    is_outside_name,
    kind_of,
    names_in,
    restorer,
    set_back,
    set_or_delete,
)
from graphstreams.messages import with_type

CUDA = torch.device("cuda:0")
_PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)
_TABLES = ("_parameters", "_buffers", "_modules")  # of a module
_LEAVES = (
    str, bytes, int, float, complex, type, type(None), types.ModuleType, types.BuiltinFunctionType, torch.dtype, torch.Size,
    torch.Generator, torch.UntypedStorage,
)  # fmt: skip


@contextlib.contextmanager
def faked(function: Callable[..., Any], inputs: Any, mode: FakeTensorMode) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Return `function` and `inputs` with fake CUDA tensors for those that they hold, for use inside the context.

    Tensors are looked for in modules, lists, tuples, dicts, attributes of objects and classes, and in what functions' code
    names: closures, defaults and their module's level. What can be changed is changed in place, and is as before behind the
    context, whatever the function has done to it.
    Raises CannotPlan, with the tensor's place, for an input, a parameter or a buffer that is not dense or of a class that torch
    can't take apart, and for objects that can't be walked. Of attributes, which may not be used, such tensors stay as they are.
    """
    with contextlib.ExitStack() as undo:
        stand_ins = _StandIns(mode, undo)
        name = "module" if isinstance(function, torch.nn.Module) else "function"
        try:
            made = stand_ins.replaced(function, name), stand_ins.replaced(inputs, "inputs")
        except RecursionError:
            raise CannotPlan("the module or its inputs hold objects that are nested too deeply") from None
        yield made


class _StandIns:
    """What stands in for each object that was looked at, by its id."""

    def __init__(self, mode: FakeTensorMode, undo: contextlib.ExitStack) -> None:
        self._mode, self._undo = mode, undo
        self._known: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._storages: dict[int, torch.UntypedStorage] = {}

    def replaced(self, value: Any, place: str) -> Any:
        """Return `value` with fakes for its tensors. `place` is where it was found, for a message."""
        if isinstance(value, _LEAVES) or is_outside(value):
            return value
        if id(value) not in self._known:
            self._kept.append(value)
            self._known[id(value)] = value  # for what holds itself
            try:
                self._known[id(value)] = self._new(value, place)
            except BaseException:
                del self._known[id(value)]
                raise
        return self._known[id(value)]

    def _new(self, value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor):
            return self._fake(value, place)
        if isinstance(value, tuple):
            return self._new_tuple(value, place)
        if isinstance(value, list | deque | dict):
            self._replace_in(value, lambda key: f"{place}[{key!r}]")
        elif isinstance(value, torch.nn.Module):
            self._replace_attributes(value, place)
            for table in (getattr(value, name) for name in _TABLES):
                self._replace_in(table, lambda key: f"{place}.{key}")
            self._unless_torchs(type(value).forward, place)
            return value
        elif isinstance(value, types.FunctionType):
            self._replace_named(value, place)
        elif isinstance(value, types.MethodType):
            self.replaced(value.__self__, place)
            self._unless_torchs(value.__func__, place)
        elif isinstance(value, functools.partial):
            function = self.replaced(value.func, place)
            args, named = (self.replaced(each, f"{place}'s arguments") for each in (value.args, value.keywords))
            return functools.partial(function, *args, **named)
        self._replace_attributes(value, place)
        return value

    def _new_tuple(self, value: tuple[Any, ...], place: str) -> Any:
        found = [self.replaced(each, f"{place}[{number}]") for number, each in enumerate(value)]
        if all(one is other for one, other in zip(found, value, strict=True)):
            return value
        try:
            return type(value)._make(found) if hasattr(value, "_make") else type(value)(found)
        except Exception as error:
            raise CannotPlan(f"{place} is a {type(value).__name__} that can't be made anew: {with_type(error)}") from None

    def _replace_in(self, holder: Any, named: Callable[[Any], str]) -> None:
        """Replace the values of a list or a dict, which is as before behind the context."""
        self._undo.callback(restorer(holder))
        for key in list(dict.keys(holder) if isinstance(holder, dict) else range(len(holder))):
            value = kind_of(holder).__getitem__(holder, key)
            if (new := self.replaced(value, named(key))) is not value:
                kind_of(holder).__setitem__(holder, key, new)

    def _replace_attributes(self, value: Any, place: str) -> None:
        own = attributes_of(value)
        if own is not None:
            self._undo.callback(restorer(own))
            tables = [own.get(name, {}) for name in _TABLES] if isinstance(value, torch.nn.Module) else []
            held = [each for table in (own, *tables) for each in table.values() if isinstance(each, torch.Tensor)]
            devices = {each.device for each in held}
            for name, each in own.items():
                if isinstance(each, torch.device) and each in devices:
                    own[name] = CUDA  # where it makes new ones beside those that it holds
                elif not (tables and name in _TABLES):
                    with contextlib.suppress(CannotPlan):
                        own[name] = self.replaced(each, f"{place}.{name}")
            if tables and own.get("_compiled_call_impl") is not None:  # `module.compile()`: the caller compiles it
                own["_compiled_call_impl"] = None
            if tables and hasattr(own.get("forward"), "_torchdynamo_orig_callable"):  # `module.forward = torch.compile(...)`
                own["forward"] = innermost_fn(own["forward"])
        for kind in type(value).__mro__:
            if kind.__module__.partition(".")[0] not in ("builtins", "torch") and not is_outside_name(kind.__module__):
                if id(kind) not in self._known:
                    self._kept.append(kind)
                    self._known[id(kind)] = kind
                    self._undo.callback(class_restorer(kind))
                self._replace_of_class(kind, value, place)

    def _replace_of_class(self, kind: type, value: Any, place: str) -> None:
        for name, each in list(vars(kind).items()):
            with contextlib.suppress(AttributeError, TypeError, CannotPlan):  # an empty slot, or what can't be written
                if isinstance(each, types.MemberDescriptorType):
                    self._set_attribute(object.__setattr__, value, name, self.replaced(getattr(value, name), f"{place}.{name}"))
                elif isinstance(each, torch.Tensor | list | dict | tuple):
                    self._set_attribute(type.__setattr__, kind, name, self.replaced(each, f"{place}.{name}"))

    def _replace_named(self, function: types.FunctionType, place: str) -> None:
        """Replace the tensors that a function's code reaches by name."""
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._set_attribute(object.__setattr__, cell, "cell_contents", self.replaced(cell.cell_contents, place))
        for name in ("__defaults__", "__kwdefaults__"):
            self._set_attribute(object.__setattr__, function, name, self.replaced(getattr(function, name), f"{place}.{name}"))
        namespace = function.__globals__
        if is_outside_name(function.__module__) or str(function.__module__).partition(".")[0] == "torch":
            return
        for name in names_in(function.__code__):
            old = namespace.get(name, MISSING)
            self._undo.callback(set_or_delete, namespace, name, old)
            with contextlib.suppress(CannotPlan):
                if isinstance(old, torch.Tensor | torch.nn.Module | list | dict | tuple | types.FunctionType):
                    namespace[name] = self.replaced(old, name)

    def _unless_torchs(self, function: Any, place: str) -> None:
        if isinstance(function, types.FunctionType) and str(function.__module__).partition(".")[0] != "torch":
            self.replaced(function, place)

    def _set_attribute(self, setter: Callable[..., None], holder: Any, name: str, new: Any) -> None:
        old = getattr(holder, name)
        if new is not old:
            setter(holder, name, new)
        self._undo.callback(set_back, setter, holder, name, old)

    def _fake(self, tensor: torch.Tensor, place: str) -> torch.Tensor:
        if is_traceable_wrapper_subclass(tensor) and tensor.layout == torch.strided:
            made = transform_subclass(tensor, lambda name, inner: self.replaced(inner, f"{place}.{name}"))
        else:
            _check(tensor, place)
            made = dense_fake(tensor, self._mode, self._storages)
        if isinstance(tensor, torch.nn.Parameter):
            made = torch.nn.Parameter(made, tensor.requires_grad)
        elif tensor.requires_grad:
            made.requires_grad_()
        if not isinstance(tensor, FakeTensor):
            for name, value in vars(tensor).items():  # such as what `mark_dynamic` says, and a library's marks
                made.__dict__.setdefault(name, self.replaced(value, f"{place}.{name}"))
        return made


def _check(tensor: torch.Tensor, place: str) -> None:
    """Raise CannotPlan if no fake tensor can stand in for `tensor`."""
    if type(tensor) not in _PLAIN or torch.nn.parameter.is_lazy(tensor):
        raise CannotPlan(f"{place} is a {type(tensor).__name__}, which torch can't take apart; make a plain tensor of it")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).replace("torch.strided", "a lazy view")
        raise CannotPlan(f"{place} is {kind}; only dense tensors can be planned")


def dense_fake(tensor: torch.Tensor, mode: FakeTensorMode, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Return a fake CUDA tensor like a dense one. `storages` has the fake storage of each that was seen, by its address."""
    storage = tensor.untyped_storage()
    with mode:
        if storage._cdata not in storages:
            storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8, device=CUDA).untyped_storage()
        empty = torch.empty(0, dtype=tensor.dtype, device=CUDA)
        return empty.set_(storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
