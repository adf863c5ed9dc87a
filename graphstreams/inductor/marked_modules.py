"""Mark modules in a model's own code, and find the marks of the modules that a graph was traced through.

A mark is an attribute of the module, which Dynamo neither traces nor guards. A graph knows its modules by their id and by the
expression that Dynamo reads them from, which is followed here from the frame that is compiled, and checked by the id.
Read in torch 2.15.0: `_dynamo/symbolic_convert.py` (InstructionTranslator.current_tx), `_dynamo/output_graph.py`
(local_scope, global_scope), `_dynamo/variables/nn_module.py` (record_nn_module_stack).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Collection, Iterator, Mapping
from inspect import getattr_static
from typing import Any, TypeVar

import torch
from torch import fx

from graphstreams.errors import OptionError
from graphstreams.messages import shown

MARK = "_graphstreams_stream"
Marked = TypeVar("Marked")
_STEP = re.compile(r"\.([^.\[]+)|\[(?:'([^']*)'|\"([^\"]*)\"|(-?\d+))\]")


def pin(module: Marked, stream: int) -> Marked:
    """Let the kernels of a module, and of the modules in it, run on one stream, and return it. 0 is the caller's stream.

    `module` is a torch.nn.Module, or a class of them. Mark it before it is compiled. A later mark takes the place of an earlier
    one of the same module, and a mark of a module inside wins; that of a ModuleList or ModuleDict is one of each module in
    it. Raises OptionError for anything else.
    """
    return _marked(module, stream)


def exclude(module: Marked) -> Marked:
    """Let the kernels of a module stay on the caller's stream, and return it: as `pin` with stream 0, also as a decorator."""
    return _marked(module, 0)


def _marked(module: Any, stream: int) -> Any:
    inner = getattr(module, "_orig_mod", module)  # of what torch.compile returns
    is_class = isinstance(inner, type) and issubclass(inner, torch.nn.Module)
    if not is_class and not isinstance(inner, torch.nn.Module):
        raise OptionError(f"only a torch.nn.Module, or a class of them, can be marked, not {shown(module)}")
    if not isinstance(stream, int) or isinstance(stream, bool) or stream < 0:
        raise OptionError(f"a module is pinned to stream {shown(stream)}; a stream is a whole number, 0 the caller's")
    before = getattr(inner, MARK, None)
    setattr(inner, MARK, stream)
    if not is_class:
        # A list of modules is never called, so no graph is traced through it.
        for child in inner.children() if _is_list(inner) else ():
            if getattr(child, MARK, None) in (None, before):  # a mark of its own wins
                _marked(child, stream)
    return module


def _is_list(module: Any) -> bool:
    return getattr_static(type(module), "forward", None) is torch.nn.Module.forward


def marked_modules(gm: fx.GraphModule) -> list[tuple[str, int]]:
    """Return the expression and the stream of each marked module that Dynamo's graph was traced through.

    The expression of the module whose `forward` is compiled is empty.
    """
    locals_, globals_, own = _scope()
    found: dict[str, int] = {}
    if own is not None and isinstance(stream := getattr(own, MARK, None), int):
        found[""] = stream
    scopes, entries = {"L": locals_, "G": globals_}, _stack_entries(gm)
    modules = {entry: _resolved(entry[1], scopes) for entry in entries}
    lost = _of_the_process({key for (key, _), module in modules.items() if id(module) != _id_of(key)})
    named = {expression: lost.get(key, modules[key, expression]) for key, expression in entries}
    # Modules around these, which are not called themselves.
    around = {expression[: step.end()] for expression in named for step in _STEP.finditer(expression)} - named.keys()
    reached = {expression: _resolved(expression, scopes) for expression in around}
    named.update((expression, module) for expression, module in reached.items() if not _is_list(module))
    for expression, module in named.items():
        if isinstance(module, torch.nn.Module) and module is not own and isinstance(stream := getattr(module, MARK, None), int):
            found[expression] = stream
    return sorted(found.items())


def _scope() -> tuple[Mapping[str, Any], Mapping[str, Any], Any]:
    """Return the locals and globals of the frame that Dynamo compiles, and the module whose method it is, if it is one."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        translator = InstructionTranslator.current_tx()
    except AttributeError:  # called by something else than Dynamo
        return {}, {}, None
    output, code = translator.output, translator.output.root_tx.f_code
    first = output.local_scope.get(code.co_varnames[0]) if code.co_argcount else None
    return output.local_scope, output.global_scope, first if isinstance(first, torch.nn.Module) else None


def _stack_entries(gm: fx.GraphModule) -> set[tuple[str, str]]:
    """Return the modules that nodes stand in, as Dynamo records them: a key with the module's id, and an expression.

    A module that several attributes hold has several expressions.
    """
    stacks = (node.meta.get("nn_module_stack") or {} for node in gm.graph.nodes)
    return {(str(key), expression) for stack in stacks for key, (expression, _) in stack.items()}


def _of_the_process(keys: Collection[str]) -> dict[str, Any]:
    """Return the modules of some keys, of all modules that this process has; None for one that is gone."""
    wanted = {_id_of(key): key for key in keys}
    found: dict[str, Any] = dict.fromkeys(keys)
    for value in gc.get_objects() if wanted else ():
        if id(value) in wanted and issubclass(type(value), torch.nn.Module):
            found[wanted[id(value)]] = value
    return found


def _id_of(key: str) -> int | None:
    digits = re.match(r"\d+", key)
    return int(digits[0]) if digits else None


def _resolved(expression: str, scopes: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return what an expression such as `L['self'].layers.0` stands for, without running a user's code; None if unknown."""
    value: Any = scopes.get(expression[:1])
    for step in _steps(expression[1:]):
        if isinstance(value, torch.nn.Module):
            value = value._modules.get(str(step), vars(value).get(str(step)))
        elif isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list | tuple) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            value = getattr(value, "__dict__", {}).get(step)
    return value


def _steps(expression: str) -> Iterator[str | int]:
    for attribute, single, double, index in _STEP.findall(expression):
        yield int(index) if index else attribute or single or double
