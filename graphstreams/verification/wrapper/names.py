"""What the names of a wrapper's module stand for: the closed list of what it imports, its tables and its functions.

`IMPORTS` lists what a wrapper may import, and `ALIASES` the attributes of imports that it may bind to a name. What they do is
said by `known_calls`, `operator_calls` and `stream_calls`, which list what may be called. Read in torch 2.14.1 and 2.15.0:
`_inductor/codegen/wrapper.py` (write_header, write_prefix, and what adds imports to them).
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass, field

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import dotted, shortened
from graphstreams.verification.triton.accesses import TritonKernel, read_kernel

GUARDS = "torch._C._dynamo.guards."
IMPORTS = {
    "torch", "math", "random", "os", "tempfile", "triton", "triton.language", "ctypes.c_void_p", "ctypes.c_long",
    "ctypes.c_int", "math.inf", "math.nan", "cmath.nanj", "torch.device", "torch.empty_strided",
    "torch._inductor.hooks.run_intermediate_hooks", "torch._inductor.utils.maybe_profile",
    "torch._inductor.codegen.memory_planning._align", "torch._inductor.async_compile.AsyncCompile",
    "torch._inductor.select_algorithm.extern_kernels", "torch._inductor.runtime.triton_heuristics.start_graph",
    "torch._inductor.runtime.triton_heuristics.end_graph", "torch._inductor.runtime.runtime_utils.assert_tensor_metadata",
    "torch._C._cuda_getCurrentRawStream", f"{GUARDS}copy_if_misaligned", "torch.cuda.nvtx",
    "torch._dynamo.variables.streams._get_stream_by_index", "graphstreams.runtime.streams.acquire_for_call",
    "graphstreams.runtime.streams.join", "graphstreams.runtime.dispatch.runs_on_streams",
    "graphstreams.runtime.dispatch.settle", "graphstreams.runtime.dispatch.adopt", "graphstreams.runtime.verdicts.announce",
}  # fmt: skip
ALIASES = {
    "torch.ops.aten", "torch.ops.inductor", "torch.ops._quantized", "torch.ops.inductor._alloc_from_pool",
    "torch._C._distributed_c10d._SymmetricMemory.empty_strided_p2p",
    *(f"{GUARDS}{name}" for name in (
        "assert_size_stride", "assert_size_stride_grouped", "assert_alignment", "copy_if_misaligned", "_reinterpret_tensor",
        "_empty_strided_cpu", "_empty_strided_cpu_pinned", "_empty_strided_cuda", "_empty_strided_xpu", "_empty_strided_mtia",
    )),
}  # fmt: skip
HARNESS = {"get_args", "benchmark_compiled_module"}  # functions that no call runs
_HARNESS_PARAMETERS = re.compile(r"(\w+(=\d+)?(, |$))*")  # names, some with a number as default


@dataclass
class WrapperModule:
    """The names of a wrapper's module. Kernels are read when they are first used."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    kernels: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # source, line, the function that is launched
    host_kernels: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of C++: the types of their parameters
    # Kernels of which the fastest runs, each with the slices of the arguments that it gets.
    multi_kernels: dict[str, tuple[tuple[str, tuple[slice, ...]], ...]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=lambda: {name: f"builtins.{name}" for name in dir(builtins)})
    tensors: set[str] = field(default_factory=set)  # constants that Inductor sets after the import
    names: set[str] = field(default_factory=set)  # all names that are bound
    partitions: tuple[str, ...] = ()
    subgraphs: set[str] = field(default_factory=set)  # functions that a body calls for one operator of the graph
    _read: dict[str, TritonKernel] = field(default_factory=dict)

    def kernel(self, name: str) -> TritonKernel:
        """Return a Triton kernel. Raises UnreadableWrapper if its source is not understood."""
        if name not in self._read:
            self._read[name] = read_kernel(name, *self.kernels[name])
        return self._read[name]


def read_slices(table: ast.Dict) -> tuple[tuple[slice, ...], ...]:
    """Return which arguments each kernel is given, from `{0: [slice(0, 3, None)], ...}`. Raises UnreadableWrapper."""
    found = []
    for number, (key, value) in enumerate(zip(table.keys, table.values, strict=True)):
        parts = value.elts if isinstance(value, ast.List) else []
        bounds = [part.args for part in parts if isinstance(part, ast.Call) and dotted(part.func) == "slice"]
        numbers = [tuple(a.value if isinstance(a, ast.Constant) else "" for a in arguments) for arguments in bounds]
        whole = [slice(*n) for n in numbers if len(n) == 3 and all(a is None or isinstance(a, int) for a in n)]
        if not isinstance(key, ast.Constant) or key.value != number or not parts or len(whole) != len(parts):
            raise UnreadableWrapper(table.lineno, f"arg_index = {shortened(table)}")
        found.append(tuple(whole))
    return tuple(found)


def check_function(function: ast.FunctionDef) -> None:
    """Raise UnreadableWrapper for parameters other than plain names, and for what Python would run at a definition."""
    parameters = ast.unparse(function.args)
    plain = _HARNESS_PARAMETERS.fullmatch(parameters) if function.name in HARNESS else parameters == "args"
    if function.decorator_list or function.returns is not None or not plain:
        head = f"{function.name}({shortened(function.args)})"
        raise UnreadableWrapper(function.lineno, f"a function with other parameters than a wrapper's, or decorated: {head}")
