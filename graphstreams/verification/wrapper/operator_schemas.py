"""What an operator reads, writes and returns, as its schema says, if the schema can be trusted. Asks torch.

A schema marks the arguments that the operator writes, `(a!)`, and the returns that are views of an argument, `(a)`. Operators
of other libraries may do nothing else: torch.library forbids it. Some of torch's own hide an alias or a write, so those that
are composed of others, and those that are listed here, are refused. An argument of the type PyObject is an object of a class
that its library has registered. Read in torch 2.15.0: `native_functions.yaml`, `_library/opaque_object.py`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

_VIEWS = {
    "view", "as_strided", "t", "transpose", "permute", "expand", "slice", "select", "squeeze", "unsqueeze", "alias", "detach",
    "_reshape_alias", "view_as_real", "view_as_complex", "_conj", "_neg_view", "diagonal", "unfold",
}  # fmt: skip
_LISTS_OF_VIEWS = {"split", "split_with_sizes", "unbind"}  # every item is a view of the one argument
_VIEWS_OR_COPIES = {"reshape"}  # composed of others: a view of the argument if its strides allow one, else a copy
# Operators that change what a storage is, give a view, or read on the host, of which the schema says nothing.
_HIDING = {
    "set_", "shallow_copy_data_", "_unsafe_view", "lift", "record_stream", "_local_scalar_dense", "is_nonzero", "equal",
    "_pack_padded_sequence", "_to_cpu", "_pin_memory", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "set_data",
    "_coalesce", "_nested_from_padded",
}  # fmt: skip
_HIDING_PREFIXES = ("_test_", "_nested_", "_sparse_", "sparse_", "_cudnn_rnn", "_cudnn_init", "mkldnn_", "_mkldnn")
_WRITTEN_SILENTLY = {"running_mean", "running_var", "weight_buf", "dropout_state"}
# Namespaces of operators that do what no schema says: collectives, memory of other ranks, primitives of a trace.
REFUSED_NAMESPACES = {
    "c10d", "_c10d_functional_autograd", "c10d_functional", "symm_mem", "higher_order", "prims", "inductor", "rngprims",
    "profiler", "streams", "debugprims", "_dtensor", "fsdp",
}  # fmt: skip
_TAGS = {"maybe_aliasing_or_mutating", "inplace_view"}
_OPAQUE = re.compile(r"__torch__|\b(Any|Future|Await|t)\b")  # types of values that may hold tensors


class UnknownOperatorError(Exception):
    """An operator without a schema to go by. The message says why."""


@dataclass(frozen=True)
class Returned:
    """One return: a "tensor", a "list" of tensors or a "number"; and the argument whose memory it, or each item, is, if any."""

    kind: str
    argument: str = ""
    copied: bool = False  # whether it may be a copy of the argument instead


@dataclass(frozen=True)
class OperatorSchema:
    """The names of the arguments in order, those that are tensors or lists of them, those written, the returns, and the names
    of those that are Python objects.
    """

    arguments: tuple[str, ...]
    tensors: frozenset[str]
    written: frozenset[str]
    returns: tuple[Returned, ...]
    objects: frozenset[str] = frozenset()


def is_type(path: str) -> bool:
    """Return whether `path` names a dtype, a layout or a memory format, such as "torch.float32"."""
    import torch

    value = getattr(torch, path.removeprefix("torch."), None) if path.startswith("torch.") else None
    return isinstance(value, torch.dtype | torch.layout | torch.memory_format)


@functools.lru_cache(maxsize=4096)
def read_operator(path: str) -> OperatorSchema:
    """Return what the schema of `namespace.name.overload` says, or without an overload, what all overloads agree on.

    Inductor calls a few operators without naming an overload. Raises UnknownOperatorError if the schema is not known or cannot
    be trusted.
    """
    namespace, _, rest = path.partition(".")
    name, _, overload = rest.partition(".")
    found = _overloads(namespace, name, overload)
    if not found:
        raise UnknownOperatorError("it is not registered in this process; import the package that registers it")
    for operator in found:
        if reason := _distrust(namespace, name, operator):
            raise UnknownOperatorError(reason)
    first, *others = [_operator(operator._schema) for operator in found]
    if any((other.written, other.returns) != (first.written, first.returns) for other in others):
        raise UnknownOperatorError("its overloads differ in what they write, and the call does not name one")
    # The longest list of arguments has the names of all others.
    longest = max([first, *others], key=lambda operator: len(operator.arguments))
    tensors, objects = (
        frozenset().union(*sets) for sets in zip(*((o.tensors, o.objects) for o in (first, *others)), strict=True)
    )
    return OperatorSchema(longest.arguments, tensors, first.written, first.returns, objects - tensors)


def _overloads(namespace: str, name: str, overload: str) -> list[Any]:
    import torch

    packet = getattr(getattr(torch.ops, namespace, None), name, None)
    found: list[str] = getattr(packet, "overloads", list)()
    chosen = {overload} if overload else {o for o in found if not o.endswith(("out", "hacked_twin"))}
    return [getattr(packet, o) for o in found if o in chosen]


def _distrust(namespace: str, name: str, operator: Any) -> str:
    """Return why the schema does not tell all; empty if it does."""
    from graphstreams.runtime.dispatcher import is_composite

    if namespace in REFUSED_NAMESPACES:
        return f"operators of {namespace} are not held to their schemas"
    if name in _HIDING or "resize" in name or (namespace == "aten" and name.startswith(_HIDING_PREFIXES)):
        return "it changes storages, or shares them, in ways that its schema does not tell"
    if is_composite(operator) and not (namespace == "aten" and name in _VIEWS_OR_COPIES):
        return "it is composed of others, so what it gives may be its argument's memory or a copy"
    if any(tag.name in _TAGS for tag in operator.tags):
        return "it may share or change its arguments' memory without saying so"
    silent = {a.name for a in operator._schema.arguments if a.name in _WRITTEN_SILENTLY and a.alias_info is None}
    if namespace == "aten" and silent and "functional" not in name and "no_training" not in name:
        return f"it writes {min(silent)}, which its schema does not tell"
    viewed = [r for r in operator._schema.returns if r.alias_info is not None and not r.alias_info.is_write]
    if viewed and (
        name not in _VIEWS | _LISTS_OF_VIEWS | _VIEWS_OR_COPIES or namespace != "aten" or len(operator._schema.returns) != 1
    ):
        return "what it gives may be a view of its argument, which is known of few operators"
    return ""


def _operator(schema: Any) -> OperatorSchema:
    copied = schema.name.removeprefix("aten::") in _VIEWS_OR_COPIES
    aliases = {label: a.name for a in schema.arguments if a.alias_info for label in a.alias_info.before_set}
    in_lists = [a.name for a in schema.arguments if a.alias_info and a.alias_info.after_set == {"*"}]
    written = frozenset(a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write)
    tensors = frozenset(a.name for a in schema.arguments if "Tensor" in str(a.type))
    return OperatorSchema(
        tuple(a.name for a in schema.arguments),
        tensors,
        written,
        tuple(replace(_returned(r, aliases, in_lists), copied=copied) for r in schema.returns),
        frozenset(a.name for a in schema.arguments if str(a.type) == "PyObject"),
    )


def _returned(value: Any, aliases: dict[str, str], in_lists: list[str]) -> Returned:
    """Return what a schema says of one return. `in_lists` are the arguments that a list of views may be of: `(a -> *)`."""
    kind = str(value.type)
    if _OPAQUE.search(kind):
        raise UnknownOperatorError(f"it gives a {kind}, which may hold tensors")
    if "Tensor" not in kind:
        return Returned("number")
    if "List" in kind:
        kind = "list"
    elif kind in ("Tensor", "Optional[Tensor]"):
        kind = "tensor"
    else:
        raise UnknownOperatorError(f"it gives a {kind}")
    if value.alias_info is None:
        return Returned(kind)
    named = sorted({aliases[label] for label in value.alias_info.before_set})
    # Of a list of views the schema says on the argument, not on the return, that they share memory.
    shared = in_lists if kind == "list" and not value.alias_info.is_write else named
    if len(shared) != 1:
        raise UnknownOperatorError("what it gives shares memory with its arguments in ways that its schema does not tell")
    return Returned(kind, shared[0])
