"""Tell what objects hold that a model may use, and make them as they were once a call has changed them."""

from __future__ import annotations

import operator
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import torch

# Objects of these packages hold no tensors of a model, but all that there is in a process: functions' globals, loaders, caches.
_OUTSIDE = (
    sys.stdlib_module_names - {"builtins", "collections", "functools", "types"}
) | {"triton", "torch._dynamo", "torch._inductor", "torch._C", "torch.fx", "torch.distributed"}  # fmt: skip
MISSING = object()


def is_outside(value: Any) -> bool:
    """Return whether an object holds what belongs to the process, not to a model."""
    outside = is_outside_name(type(value).__module__) and not isinstance(value, torch.nn.Module | torch.Tensor)
    return outside or (isinstance(value, dict) and "__builtins__" in value)


def is_outside_name(module: Any) -> bool:
    """Return whether a module's name is that of such objects' module."""
    parts = str(module).split(".")
    return not {parts[0], ".".join(parts[:2])}.isdisjoint(_OUTSIDE)


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the table of an object's attributes; None if it has none that can be changed."""
    try:
        own = value.__dict__
    except Exception:
        return None
    return own if type(own) is dict else None


def names_in(code: types.CodeType) -> set[str]:
    """Return the names that code and the functions inside it use."""
    inside = [names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*inside)


def kind_of(holder: Any) -> Any:
    """Return the type whose methods change a list or a dict, past those that a class of the user's own has put before them."""
    return next(kind for kind in (OrderedDict, dict, list, deque) if isinstance(holder, kind))


def restorer(holder: Any) -> Callable[[], None]:
    """Return what makes a list or a dict as it is now."""
    kind, before = kind_of(holder), _parts(holder)

    def restore() -> None:
        now = _parts(holder)
        if len(now) == len(before) and all(map(operator.is_, now, before)):
            return
        kind.clear(holder)
        if isinstance(holder, dict):
            kind.update(holder, zip(before[::2], before[1::2], strict=True))
        else:
            kind.extend(holder, before)

    return restore


def _parts(holder: Any) -> list[Any]:
    """Return what a list or a dict holds: of a dict each key and its value."""
    return [part for pair in dict.items(holder) for part in pair] if isinstance(holder, dict) else list(holder)


def class_restorer(kind: type) -> Callable[[], None]:
    """Return what gives a class the attributes that it has now."""
    before = dict(vars(kind))

    def restore() -> None:
        for name in vars(kind).keys() - before.keys():
            type.__delattr__(kind, name)
        for name, value in before.items():
            if vars(kind).get(name) is not value:
                type.__setattr__(kind, name, value)

    return restore


def set_or_delete(namespace: dict[str, Any], name: str, value: Any) -> None:
    """Give a name its value again, or none if that is `MISSING`."""
    if value is MISSING:
        namespace.pop(name, None)
    elif namespace.get(name) is not value:
        namespace[name] = value


def set_back(setter: Callable[..., None], holder: Any, name: str, old: Any) -> None:
    """Give an attribute its value again."""
    if getattr(holder, name, MISSING) is not old:
        setter(holder, name, old)
