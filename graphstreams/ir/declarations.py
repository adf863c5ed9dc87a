"""Declare what operators of other libraries touch beside the arguments of their schemas.

Of an operator that is not torch's own nothing else is known, so it keeps its place against every other kernel. Declared as
pure, it is an ordinary kernel. One that touches named resources, such as a cache that it finds by a name, keeps its place
against the operators that touch the same ones. Whoever declares an operator says that it enqueues all it does on the current
stream, and waits for nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from graphstreams.errors import OptionError

Resources = tuple[str, ...]
Declarations = tuple[tuple[str, Resources], ...]  # pattern of names "namespace::name" -> resources; none: pure
Operator = TypeVar("Operator")

# Well-known operators that touch nothing but their arguments: of torchvision, and of vLLM (csrc/torch_bindings.cpp).
_PURE = {
    "torchvision": "nms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d",
    "_C": "rms_norm fused_add_rms_norm rotary_embedding silu_and_mul mul_and_silu gelu_and_mul gelu_tanh_and_mul gelu_new "
    "gelu_fast gelu_quick rms_norm_static_fp8_quant fused_add_rms_norm_static_fp8_quant rms_norm_dynamic_per_token_quant "
    "static_scaled_fp8_quant dynamic_scaled_fp8_quant dynamic_per_token_scaled_fp8_quant",
    "_C_cache_ops": "reshape_and_cache reshape_and_cache_flash concat_and_cache_mla indexer_k_quant_and_cache",
}
KNOWN = {f"{namespace}::{name}": () for namespace, names in _PURE.items() for name in names.split()}
_of_authors: dict[str, Resources] = {}


def declare(operator: Operator, touches: Iterable[str] = ()) -> Operator:
    """Declare an operator as pure, or as touching the resources named, and return it: for the library that defines it.

    `operator` is its name, "namespace::name", an operator of `torch.ops`, or what `torch.library.custom_op` returns. Raises
    OptionError if it is none, or if `touches` is one text.
    """
    _of_authors[_name(operator)] = _resources(touches)
    return operator


def resources_of(name: str, declared: Declarations) -> Resources | None:
    """Return what the operator "namespace::name" touches beside its arguments; None if nothing is declared of it.

    `declared` comes first, then what the operator's library says, then KNOWN.
    """
    given = (resources for pattern, resources in declared if fnmatch.fnmatchcase(name, pattern))
    return next(given, _of_authors.get(name, KNOWN.get(name)))


def all_declared(declared: Declarations) -> Declarations:
    """Return `declared` and what libraries have declared in this process."""
    return (*declared, *sorted(_of_authors.items()))


def parse(value: Any) -> Declarations:
    """Return declarations from a mapping of patterns to resources, from names alone, or from "a::b, c::d=kv+x" as in the shell.

    Raises OptionError for anything else.
    """
    if isinstance(value, str):
        parts = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        value = {pattern.strip(): names.split("+") if names else () for pattern, _, names in parts}
    if not isinstance(value, Iterable):
        raise OptionError(f"option 'operators' takes names of operators, or a dict of names and resources, not {value!r}")
    listed = value.items() if isinstance(value, Mapping) else value
    pairs = [each if isinstance(each, tuple | list) and len(each) == 2 else (each, ()) for each in listed]
    return tuple((_pattern(pattern), _resources(names)) for pattern, names in pairs)


def _pattern(text: Any) -> str:
    if not isinstance(text, str) or "::" not in text:
        raise OptionError(f"an operator is named namespace::name, not {text!r}")
    return text


def _resources(names: Any) -> Resources:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"resources are a list of names, not {names!r}")
    return tuple(names)


def _name(operator: Any) -> str:
    if isinstance(operator, str):
        return _pattern(operator)
    found = getattr(operator, "_qualname", None) or getattr(operator, "_qualified_op_name", None)
    schema = getattr(operator, "_schema", None)
    found = found or (schema.name if schema is not None else None)
    return _pattern(found if isinstance(found, str) else operator)
