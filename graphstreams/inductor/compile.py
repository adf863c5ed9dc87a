"""Compile with Inductor, completely or up to its post-grad passes, after which this package takes the graph.

Read in torch 2.15.0: `_inductor/compile_fx.py` (compile_fx, codegen_and_compile), `_inductor/__init__.py`.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import CodeType
from typing import Any, get_origin

import torch
from torch import fx
from torch._inductor import config

from graphstreams.errors import OptionError
from graphstreams.messages import shown

GRAPH_KINDS = ("inference", "forward", "backward")  # as AOTAutograd names graphs: "0_inference"
_STAND_IN = "wrap_inline."  # a function of `_dynamo/external_utils.py`


def compile_graph(gm: fx.GraphModule, example_inputs: Sequence[Any], settings: Mapping[str, Any]) -> Any:
    """Return the function that Inductor compiles a graph from Dynamo to, with `settings` of Inductor."""
    from torch._inductor.compile_fx import compile_fx

    return compile_fx(gm, example_inputs, config_patches=dict(settings))


def given_settings(settings: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Inductor has `settings`."""
    return config.patch(dict(settings))  # type: ignore[no-any-return]


def recompile_limit(limit: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Dynamo compiles one function up to `limit` times before it gives up."""
    return torch._dynamo.config.patch(recompile_limit=limit)


def keep_addresses(values: Sequence[Any]) -> None:
    """Tell Dynamo that the tensors among `values` keep their addresses: Inductor's CUDA graphs can't change other inputs."""
    for value in values:
        if isinstance(value, torch.Tensor):
            torch._dynamo.mark_static_address(value, guard=False)


class PostGradBackend:
    """A backend that passes on each graph as it is after Inductor's post-grad passes, and runs the graph eagerly."""

    def __init__(
        self, visit: Callable[[fx.GraphModule, list[str], Sequence[Any]], None],
        before: Callable[[fx.GraphModule], None] = lambda gm: None,
    ) -> None:  # fmt: skip
        """Call `visit` with each graph, and the compiled function's inputs: their names in the source and their values.

        `before` is called with what Dynamo has traced, while it still compiles that frame.
        """
        self.visit, self.before = visit, before

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.before(gm)
        inner = partial(self._after_post_grad, input_names(gm), example_inputs)
        # Inductor is not called for a graph from AOTAutograd's cache.
        with torch._functorch.config.patch(enable_autograd_cache=False):
            return compile_fx(gm, example_inputs, inner_compile=inner)

    def _after_post_grad(
        self, names: list[str], values: Sequence[Any], gm: fx.GraphModule, inputs: Sequence[Any], **_: Any
    ) -> Any:
        from torch._dynamo.utils import detect_fake_mode
        from torch._inductor import compile_fx
        from torch._inductor.virtualized import V

        eager = copy.copy(gm.graph)
        module = fx.GraphModule(gm, eager)
        # The steps of codegen_and_compile in _inductor/compile_fx.py, up to its custom post-grad pass.
        compile_fx.view_to_reshape(gm)
        with torch.no_grad(), V.set_fake_mode(detect_fake_mode(inputs) or compile_fx.fake_tensor_prop(gm, inputs)):
            compile_fx.fake_tensor_prop(gm, inputs)
            compile_fx._recursive_record_original_output_strides(gm)
            compile_fx._recursive_post_grad_passes(gm, is_inference=True)
            self.visit(gm, names, values)

        def run(arguments: list[Any]) -> Any:
            return module.forward(*arguments)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


@contextlib.contextmanager
def fresh_dynamo() -> Iterator[None]:
    """Let Dynamo know of no earlier compilation inside the context, and of none from inside it afterwards."""
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def input_names(gm: fx.GraphModule) -> list[str]:
    """Return the expression that Dynamo reads each input of its graph from, such as `L['self']._parameters['weight']`."""
    names = []
    for node in gm.graph.find_nodes(op="placeholder"):
        source = getattr(node.meta.get("grapharg"), "source", None) or getattr(node, "_dynamo_source", None)
        name = getattr(source, "name", node.name)
        names.append(name() if callable(name) else str(name))
    return names


def module_name() -> str:
    """Return the class whose `forward`, or else the function whose code, Dynamo traces; empty if it is not known.

    If what it traces only stands in for another function, it is the class of the last `forward` to end. Read in torch 2.15.0:
    `_guards.py` (TracingContext.traced_code: the compiled function, then those that it calls, as they end). Before Python 3.11
    code does not know its class.
    """
    context = torch._guards.TracingContext.try_get()
    codes = list(getattr(context, "traced_code", ()))
    names = [getattr(code, "co_qualname", "") for code in codes]
    own = [name for name in names if not name.startswith(_STAND_IN)]
    if codes and _stands_in(codes[0], names[0]):
        own = [*(name for name in reversed(names[1:]) if name.endswith(".forward")), *own]
    owner, _, name = next(iter(own), "").rpartition(".")
    return owner if owner and (name == "forward" or name.startswith("torch_dynamo_resume")) else name


def _stands_in(code: CodeType, name: str) -> bool:
    """Return whether code is torch's, around modules and functions of its own, or a decorator's, around a method."""
    return name.startswith(_STAND_IN) or (".<locals>." in name and code.co_varnames[:1] == ("self",))


def graph_name() -> str:
    """Return the name that AOTAutograd gives the graph that is being compiled, usable in the name of a file."""
    context = torch._guards.TracingContext.try_get()
    name = "_".join(context.aot_graph_name) if context and context.aot_graph_name else "graph"
    return re.sub(r"[^\w.-]", "_", name)


def setting_names() -> frozenset[str]:
    """Return the names of Inductor's settings, such as "triton.cudagraphs"."""
    return frozenset(config._config)  # type: ignore[attr-defined]


def why_no_value(setting: str, value: Any) -> str:
    """Return why a value is none of a setting of Inductor, as torch.compile checks it; empty if it is one.

    Read in torch 2.15.0: `__init__.py` (_TorchCompileInductorWrapper.apply_options).
    """
    kind = config.get_type(setting)  # type: ignore[attr-defined]
    if get_origin(kind) is not None or isinstance(value, kind):  # of a type such as list[str] torch checks nothing
        return ""
    return f"it takes {getattr(kind, '__name__', str(kind))}, not {shown(value)}"


def mode_settings(mode: str | None) -> dict[str, Any]:
    """Return the settings of a mode of Inductor. Raises OptionError if Inductor does not know the mode."""
    if mode is None or mode == "default":
        return {}
    from torch._inductor import list_mode_options

    modes = list_mode_options()
    if mode not in modes:
        raise OptionError(f"unknown mode {shown(mode)}; Inductor knows {', '.join(modes)}")
    return dict(modes[mode])


def post_grad_passes(settings: Mapping[str, Any]) -> list[Any]:
    """Return the custom post-grad passes that `settings` name, or else Inductor's configuration."""
    given = settings.get("post_grad_custom_post_pass", config.post_grad_custom_post_pass)
    passes = given if isinstance(given, list | tuple) else [given]
    return [each for each in passes if each is not None]
