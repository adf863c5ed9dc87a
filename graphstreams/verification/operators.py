"""What an operator reads, writes and returns, by its schema. The one place of the verifier that asks torch.

A schema marks arguments that the operator writes, `(a!)`, and returns that may share an argument's memory, `(a)`.
Operators of other namespaces than torch's own are held to their schema too: torch.library forbids them to do otherwise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

# Change what a tensor's storage is, or alias without saying so in the schema.
_UNTRACEABLE = {"set_", "resize_", "resize_as_", "resize_storage_bytes_", "_unsafe_view"}


class UnknownOperatorError(Exception):
    """No schema to go by; the message says why."""


@dataclass(frozen=True)
class Returned:
    """One return: the arguments whose memory it may be (by name), and whether it may be memory of its own."""

    tensor: bool
    arguments: frozenset[str] = frozenset()
    fresh: bool = True


@dataclass(frozen=True)
class Operator:
    """Names of the arguments in order, those that are tensors or lists of them, those written, and the returns."""

    arguments: tuple[str, ...]
    tensors: frozenset[str]
    written: frozenset[str]
    returns: tuple[Returned, ...]


@functools.lru_cache(maxsize=4096)
def read_operator(path: str) -> Operator:
    """The operator `namespace.name` or `namespace.name.overload`; without an overload, all overloads joined."""
    namespace, _, rest = path.partition(".")
    name, _, overload = rest.partition(".")
    if name in _UNTRACEABLE:
        raise UnknownOperatorError("it changes storages in ways that its schema does not tell")
    schemas = _schemas(namespace, name, overload)
    if not schemas:
        raise UnknownOperatorError("it is not registered in this process; import the package that registers it")
    first, *others = [_operator(schema) for schema in schemas]
    for other in others:
        if (other.written, other.returns) != (first.written, first.returns):
            raise UnknownOperatorError("its overloads differ in what they write, and the call does not name one")
    # Without an overload's name, the longest list of arguments names all of the others'.
    longest = max([first, *others], key=lambda operator: len(operator.arguments))
    return replace(longest, tensors=first.tensors.union(*(other.tensors for other in others)))


def _schemas(namespace: str, name: str, overload: str) -> list[Any]:
    import torch

    packet = getattr(getattr(torch.ops, namespace, None), name, None)
    overloads = getattr(packet, "overloads", None)
    if overloads is None:
        return []
    functional = [o for o in overloads() if not o.endswith("out")]
    chosen = [overload] if overload else functional
    return [getattr(packet, o)._schema for o in chosen if o in overloads()]


def _operator(schema: Any) -> Operator:
    aliases: dict[str, str] = {}
    written = set()
    for argument in schema.arguments:
        info = argument.alias_info
        if info is None:
            continue
        if info.is_write:
            written.add(argument.name)
        for label in info.before_set:
            aliases[label] = argument.name
    returns = tuple(_returned(r, aliases) for r in schema.returns)
    tensors = frozenset(a.name for a in schema.arguments if "Tensor" in str(a.type))
    return Operator(tuple(a.name for a in schema.arguments), tensors, frozenset(written), returns)


def _returned(value: Any, aliases: dict[str, str]) -> Returned:
    tensor = "Tensor" in str(value.type)
    info = value.alias_info
    if info is None:
        return Returned(tensor)
    if "*" in info.before_set:
        return Returned(tensor, frozenset(aliases.values()))
    return Returned(tensor, frozenset(aliases[a] for a in info.before_set if a in aliases), not info.is_write)
