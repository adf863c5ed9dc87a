"""Lets Inductor's worker processes compile the kernels of a wrapper while this process goes on with other work.

Inductor does so itself with the kernels that it generates, but not with those of a user, as this package's are.
Read in torch 2.15.0: `_inductor/async_compile.py` (AsyncCompile.triton, CompiledTritonKernels),
`_inductor/codegen/triton.py` (define_kernel).
"""

from __future__ import annotations

import logging
from types import ModuleType

from torch._inductor.async_compile import AsyncCompile

log = logging.getLogger("graphstreams")

_WAIT = "\nasync_compile.wait(globals())\n"  # behind which a wrapper's kernels are compiled


def start_compiling(source: str) -> bool:
    """Start to compile the kernels of a wrapper, and return whether that is so. Whoever loads the wrapper then waits for less.

    Nothing is done as long as the worker processes are not ready, because this process would have to compile the kernels now.
    What can't be compiled fails again when the wrapper is loaded.
    """
    kernels, found, _ = source.partition(_WAIT)
    if not found or not AsyncCompile.use_process_pool():
        return False
    try:
        exec(compile(kernels, "<kernels>", "exec"), ModuleType("graphstreams_kernels").__dict__)
    except Exception:
        log.debug("kernels can't be compiled ahead", exc_info=True)
        return False
    return True
