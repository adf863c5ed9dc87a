"""What a user's Triton kernel in a graph touches, and whether that is known.

torch decides which arguments such a kernel writes from its Triton IR (`identify_accessed_tensors`), where an address that was
a number once does not show. So the kernel's source is read as well, in the words in which Inductor will write it into the
wrapper.
Read in torch 2.15.0: `_inductor/ir.py` (UserDefinedTritonKernel), `_inductor/codegen/wrapper.py`
(user_defined_triton_kernel_transitive_closure_source_code).
"""

from __future__ import annotations

import functools
from typing import Any

from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._inductor import ir
from torch._inductor.codegen.wrapper import user_defined_triton_kernel_transitive_closure_source_code

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.triton.pointer_analysis import kernel_accesses
from graphstreams.verification.triton.source import read_source
from graphstreams.verification.triton.values import Descriptor, KernelValue, Kind, Pointer, join

# The wrapper writes more imports; kernels use no name of the others.
_HEADER = """
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
@triton.jit
"""


def kernel_name(kernel: Any) -> str:
    """Return the name of the function that a user wrote in Triton."""
    function = kernel_side_table.get_kernel(kernel.kernel_idx)
    return str(getattr(getattr(function, "fn", function), "__name__", "triton_kernel"))


def exclusive_reason(kernel: Any) -> str:
    """Return why a user's Triton kernel keeps its place against every other kernel; empty if it need not."""
    function, configs, restored, zeroed = kernel.get_kernel_and_metadata()
    name = kernel_name(kernel)
    if not hasattr(function, "src"):
        return f"Triton kernel {name} has no source to read"
    if restored or zeroed or any(getattr(config, "pre_hook", None) for config in configs):
        return f"Triton kernel {name} is autotuned with a hook, restore_value or reset_to_zero, which writes its arguments"
    source = user_defined_triton_kernel_transitive_closure_source_code(function)
    # Blocks that wait for each other hang beside a kernel that takes their SMs. It takes atomics, or assembly.
    waits = next((word for word in ("atomic", "inline_asm", "extern") if word in source), "")
    if waits:
        return f"blocks of Triton kernel {name} may wait for each other, for its source has {waits!r}"
    return _unclear_access(kernel, function, configs, source)


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
