"""Give each compile of a process code of its own, also if Inductor generates the same text again.

Modules and kernels of a text that is loaded already are shared. Then two compiles of one text run the same objects in turns,
which a processor may have in its caches, while the one that they are compared with runs objects of its own. Read in torch
2.15.0: `_inductor/codecache.py` (PyCodeCache), `_inductor/async_compile.py` (CompiledTritonKernels).
"""

from __future__ import annotations

from torch._inductor.async_compile import CompiledTritonKernels
from torch._inductor.codecache import PyCodeCache


def forget_loaded_code() -> None:
    """Let the next compile load modules and kernels anew. What is loaded goes on to run; files on disk stay."""
    PyCodeCache.cache_clear()
    CompiledTritonKernels.cache_clear()
