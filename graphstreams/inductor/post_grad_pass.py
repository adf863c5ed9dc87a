"""Get a graph from Inductor by a pass, and give Inductor the code to run.

The pass changes nothing but the graph's meta. Once Inductor has run the passes after this one, has lowered the graph and has
generated its serial code, `code_for` gets the lowered graph and that code, and returns the code to use.
Read in torch 2.15.0: `_inductor/custom_graph_pass.py`, `_inductor/compile_fx.py` (compile_fx), `_inductor/graph.py` (codegen).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass

from graphstreams.inductor.compile import graph_name
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.wrapper_registry import SEEN, register

Code = tuple[str, Sequence[tuple[int, int]]]  # a wrapper; (line of the serial wrapper, how many lines were put before it)


class PostGradPass(CustomInferenceAwareGraphPass):  # type: ignore[misc]
    """The base of a `post_grad_custom_post_pass` that chooses which graphs get other code than Inductor's."""

    @abc.abstractmethod
    def skips(self, gm: fx.GraphModule, name: str, is_inference: bool) -> bool:
        """Return whether the graph keeps the code that Inductor generates."""

    @abc.abstractmethod
    def code_for(self, lowered: Lowered, name: str) -> Code:
        """Return the code to run for a lowered graph, whose serial wrapper is `lowered.source`."""

    def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
        """Mark `graph`, unless it is skipped. Raises what `skips` raises."""
        gm = graph.owning_module
        assert gm is not None
        for module in gm.modules():  # subgraphs, which were marked earlier, are part of their caller's code
            if isinstance(module, fx.GraphModule):
                module.meta.pop(SEEN, None)
        name = graph_name()
        if self.skips(gm, name, is_inference):
            return
        register()

        def add_body(lowered: Any, source: str) -> Code:
            lowered.module.meta.pop(SEEN, None)  # Inductor may copy the graph into its cache
            return self.code_for(Lowered(lowered, {}, source), name)

        gm.meta[SEEN] = add_body


def replays_cuda_graphs() -> bool:
    """Return whether Inductor captures what it compiles in CUDA graphs, as in the mode "reduce-overhead"."""
    return bool(config.triton.cudagraphs)
