"""Choose the wrapper class of each graph that Inductor compiles for CUDA, through its registry of device backends.

A rewritten graph gets `StreamWrapperCodegen`. A graph that a `PostGradPass` has seen gets `SerialWrapperCodegen`. Every other
graph gets the class that is registered without this package.
Read in torch 2.15.0: `_inductor/codegen/common.py`, `_inductor/codegen/wrapper.py`, `_inductor/custom_graph_pass.py`,
`_inductor/compile_fx.py` (compile_fx), `_inductor/graph.py` (codegen).
"""

from __future__ import annotations

import abc
from typing import Any

from torch import fx
from torch._inductor import config
from torch._inductor.codegen import common, wrapper
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass
from torch._inductor.virtualized import V

from graphstreams.inductor.compile import graph_name
from graphstreams.inductor.kept_values import keep_values, take_values
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.wrapper_codegen import Code, SerialWrapperCodegen, StreamWrapperCodegen

REWRITTEN = "graphstreams"  # key in the meta of a rewritten GraphModule; its value is a RewriteInfo
SEEN = "graphstreams_seen"  # key in the meta of a GraphModule that a PostGradPass has seen; its value is an AddBody


def register() -> None:
    """Put our wrapper classes in front of the one registered for CUDA. Does nothing the second time."""
    common.init_backend_registration()
    registered = common.device_codegens["cuda"]
    if not isinstance(registered.wrapper_codegen, _Selector):
        registered.wrapper_codegen = _Selector(registered.wrapper_codegen)  # type: ignore[assignment]


class _Selector:
    """The registry's entry for CUDA: our wrapper classes for the graphs that have our keys, else the class `before`."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.before(*args, **kwargs)

    def create(self, is_subgraph: bool, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapper of the graph that is being lowered. Raises RuntimeError if a rewritten graph can't have one."""
        meta: dict[str, Any] = V.graph.module.meta  # type: ignore[assignment]
        if is_subgraph or not (REWRITTEN in meta or SEEN in meta):
            return self.before.create(is_subgraph, *args, **kwargs)
        if reason := foreign_generator():
            if REWRITTEN in meta:
                raise RuntimeError(f"a graph was put on streams whose code cannot be generated: {reason}")
            return self.before.create(is_subgraph, *args, **kwargs)
        return StreamWrapperCodegen(meta[REWRITTEN]) if REWRITTEN in meta else SerialWrapperCodegen(meta[SEEN])


def foreign_generator() -> str:
    """Return why another class than ours would generate the code of a rewritten graph; empty if ours would."""
    if config.cpp_wrapper or getattr(config, "fx_wrapper", False) or V.aot_compilation:
        return "only Python wrappers know streams, and C++, FX or ahead-of-time code is asked for"
    common.init_backend_registration()
    registered: Any = common.device_codegens["cuda"].wrapper_codegen
    before = registered.before if isinstance(registered, _Selector) else registered
    return "" if before is wrapper.PythonWrapperCodegen else f"{before!r} generates the code for CUDA"


class PostGradPass(CustomInferenceAwareGraphPass):  # type: ignore[misc]
    """The base of a `post_grad_custom_post_pass` that chooses which graphs get other code than Inductor's.

    The pass changes nothing but the graph's meta, unless `prepare` does. Once Inductor has run the passes after this one, has
    lowered the graph and has generated its serial code, `code_for` gets the lowered graph and that code, and returns the code
    to use.
    """

    @abc.abstractmethod
    def skips(self, gm: fx.GraphModule, name: str, is_inference: bool) -> bool:
        """Return whether the graph keeps the code that Inductor generates."""

    def tells_of_skipped(self, gm: fx.GraphModule, name: str) -> bool:
        """Return whether the code of a skipped graph gets lines that tell of it, as `code_of_skipped` returns it."""
        return False

    def code_of_skipped(self, source: str, name: str) -> Code:
        """Return the code to run for a skipped graph, whose serial wrapper is `source`."""
        return source, ()

    def prepare(self, gm: fx.GraphModule) -> None:
        """Change a graph that is not skipped, before Inductor's last passes run on it. By default nothing is changed."""

    def name_of(self, name: str) -> str:
        """Return what a graph is called that AOTAutograd calls `name`."""
        return name

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
        name = self.name_of(graph_name())
        skipped = self.skips(gm, name, is_inference)
        if skipped and (foreign_generator() or not self.tells_of_skipped(gm, name)):
            return
        if not skipped:
            self.prepare(gm)
            keep_values(gm.graph)
        register()

        def add_body(lowered: Any, source: str) -> Code:
            lowered.module.meta.pop(SEEN, None)  # Inductor may copy the graph into its cache
            if skipped:
                return self.code_of_skipped(source, name)
            return self.code_for(Lowered(lowered, take_values(lowered), source), name)

        gm.meta[SEEN] = add_body
