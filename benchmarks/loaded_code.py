"""Compile the same text several times in a process as if it were another one each time: loaded anew, and from no cache.

Modules and kernels of a text that is loaded already are shared. Then two compiles of one text run the same objects in turns,
which a processor may have in its caches, while the one that they are compared with runs objects of its own. Read in torch
2.15.0: `_inductor/codecache.py` (PyCodeCache), `_inductor/async_compile.py` (CompiledTritonKernels).
"""

from __future__ import annotations

import torch
from torch._inductor.async_compile import CompiledTritonKernels
from torch._inductor.codecache import PyCodeCache
from torch._inductor.custom_graph_pass import CustomGraphPass


class NotCached(CustomGraphPass):
    """A post-grad pass that does nothing, with which Inductor takes no graph from its cache, as with a backend that dumps."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Leave the graph as it is."""

    def uuid(self) -> None:
        """Identify the pass by nothing, so that no cache has its graphs."""


def forget_loaded_code() -> None:
    """Let the next compile load modules and kernels anew. What is loaded goes on to run; files on disk stay."""
    PyCodeCache.cache_clear()
    CompiledTritonKernels.cache_clear()
