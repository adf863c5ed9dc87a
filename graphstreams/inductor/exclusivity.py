"""Tell which launches have to keep their place against every other launch, because what they touch is not known.

torch reads from the Triton IR of a user's kernel which arguments it writes (`identify_accessed_tensors`), but misses an address
that is made from a number. So the kernel's source is read too, as Inductor will write it into the wrapper.
Read in torch 2.15.0: `_inductor/ir.py` (FallbackKernel, UserDefinedTritonKernel), `_inductor/codegen/wrapper.py`
(user_defined_triton_kernel_transitive_closure_source_code).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.codegen.wrapper import user_defined_triton_kernel_transitive_closure_source_code

from graphstreams.errors import UnreadableWrapper
from graphstreams.inductor.collective_operators import role
from graphstreams.inductor.scheduler_nodes import leaves, operator_of, user_kernel_name
from graphstreams.ir.declarations import Declarations, resources_of
from graphstreams.verification.triton.pointer_analysis import kernel_accesses
from graphstreams.verification.triton.source import read_source
from graphstreams.verification.triton.values import Descriptor, KernelValue, Kind, Pointer, join
from graphstreams.verification.wrapper.operator_schemas import REFUSED_NAMESPACES

RESOURCE = "resource "  # what the names of storages that stand for declared resources begin with
_TRUSTED = {"aten", "prims", "inductor", "quantized", "_quantized", "higher_order"}
_OWN = {*_TRUSTED, *REFUSED_NAMESPACES, "_c10d_functional"}  # of torch itself: nobody declares them
_WAITING = ("atomic", "inline_asm", "extern", "grid_barrier")
# Loads of what another block may have stored meanwhile; all others may be taken out of a loop.
_FRESH = ("volatile", ".cv")
_COUNTING = re.compile(r"\btl\.atomic_(add|and|max|min|or|xor)\(")
# The wrapper has more imports, of which kernels use no name.
_HEADER = """
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
@triton.jit
"""


def exclusive_reason(nodes: Sequence[Any], declared: Declarations = ()) -> str:
    """Return why what scheduler nodes launch keeps its place against every other launch; empty if it need not.

    It has to if what else it touches is not known: for a custom operator that is not declared, a random number generator.
    """
    return next(filter(None, (_exclusive_reason(leaf, declared) for node in nodes for leaf in leaves(node))), "")


def undeclared(nodes: Sequence[Any], declared: Declarations = ()) -> str:
    """Return the name of an operator of another library among scheduler nodes of which nothing is declared; empty if none."""
    named = (_foreign(leaf) for node in nodes for leaf in leaves(node))
    return next((name for name in named if name and resources_of(name, declared) is None), "")


def resources(node: Any, declared: Declarations) -> tuple[str, ...]:
    """Return the storages that stand for the resources which the operators of a scheduler node are declared to touch."""
    names = [name for leaf in leaves(node) if (name := _foreign(leaf))]
    return tuple(f"{RESOURCE}{resource}" for name in names for resource in resources_of(name, declared) or ())


def is_own(operator: torch._ops.OpOverload) -> bool:
    """Return whether an operator is one of torch itself."""
    return operator.namespace in _OWN


def _foreign(leaf: Any) -> str:
    """Return "namespace::name" of the operator that a leaf calls, if it is not torch's own; empty otherwise."""
    operator = operator_of(leaf)
    return "" if operator is None or is_own(operator) else operator._schema.name


def _exclusive_reason(leaf: Any, declared: Declarations) -> str:
    if isinstance(leaf.node, ir.UserDefinedTritonKernel):
        return _triton_reason(leaf.node)
    operator = operator_of(leaf)
    # What a collective and a wait touch is known; that they keep their order is for `dependences`.
    if operator is None or role(leaf):
        return ""
    name = _foreign(leaf)
    if operator.namespace not in _TRUSTED and (not name or resources_of(name, declared) is None):
        return f"{operator} is not an operator of torch, and may touch more than its arguments"
    return f"{operator} draws random numbers" if _draws_random_numbers(leaf, operator) else ""


def _draws_random_numbers(leaf: Any, operator: torch._ops.OpOverload) -> bool:
    """Return whether an operator draws random numbers: the tag alone would say so of attention without dropout too."""
    if torch.Tag.nondeterministic_seeded not in operator.tags:
        return False
    names = [argument.name for argument in operator._schema.arguments]
    origin = getattr(leaf.node, "fx_node", None)
    if "dropout_p" not in names or origin is None or origin.target is not operator:
        return True
    place = names.index("dropout_p")
    default = operator._schema.arguments[place].default_value
    given = origin.args[place] if place < len(origin.args) else origin.kwargs.get("dropout_p", default)
    return not (isinstance(given, int | float) and given == 0)


def _triton_reason(kernel: Any) -> str:
    """Return why a user's Triton kernel has to keep its place against every other kernel; empty if it need not."""
    function, configs, restored, zeroed = kernel.get_kernel_and_metadata()
    name = user_kernel_name(kernel)
    if not hasattr(function, "src"):
        return f"Triton kernel {name} has no source to read"
    if restored or zeroed or any(getattr(config, "pre_hook", None) for config in configs):
        return f"Triton kernel {name} is autotuned with a hook, restore_value or reset_to_zero, which writes its arguments"
    source = user_defined_triton_kernel_transitive_closure_source_code(function)
    if waits := may_wait(source):
        return f"blocks of Triton kernel {name} may wait for each other, for its source has {waits!r}"
    return _unclear_access(kernel, function, configs, source)


def may_wait(source: str) -> str:
    """Return what in the source of a kernel its blocks may wait for each other with; empty if they can't.

    Blocks that wait for each other hang if another kernel occupies their SMs. They need atomics, assembly or loads that are
    made anew each time to wait. Atomics that only count, and such loads, do not wait by themselves, and without a `while`
    every loop has an end that is known when it begins.
    """
    others = _COUNTING.sub("", source)
    if found := next((word for word in _WAITING if word in others), ""):
        return found
    if not re.search(r"\bwhile\b", source):
        return ""
    return "atomic" if others != source else next((word for word in _FRESH if word in source), "")


def _unclear_access(kernel: Any, function: Any, configs: Any, source: str) -> str:
    name = str(function.__name__)
    try:
        read = read_source(name, _HEADER + source, 0)
        values = {argument: _value(kernel, argument, configs) for argument in function.arg_names}
        touched = kernel_accesses(read, read.functions[name], values, 0, generated=False)
    except UnreadableWrapper as error:
        return error.construct
    declared = {dependence.name for dependence in kernel.arg_accesses.read_writes.writes}
    missed = sorted(touched.writes - declared)
    return f"Triton kernel {name} writes {missed[0]}, which torch takes for read only" if missed else ""


def _value(kernel: Any, argument: str, configs: Any) -> KernelValue:
    given = kernel.kwargs
    if argument in given:
        return _described(given[argument], argument)
    tuned = [_described(config.kwargs[argument], argument) for config in configs if argument in config.kwargs]
    return functools.reduce(join, tuned) if tuned else Kind.NUMBER


def _described(value: Any, argument: str) -> KernelValue:
    import triton.language as tl

    if isinstance(value, ir.TMADescriptor):
        return Descriptor(frozenset({argument}))
    if isinstance(value, ir.IRNode):
        return Pointer(frozenset({argument}), scalar=True)
    if isinstance(value, tl.dtype):
        return Kind.MIXED if value.is_ptr() or value.is_block() else Kind.NUMBER_TYPE
    return Kind.NOTHING if value is None else Kind.NUMBER
