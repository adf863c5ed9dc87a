"""Know what a graph is given that is neither a tensor nor a number, such as the mesh that a DTensor is distributed over.

Read in torch 2.14.0 and 2.15.0: `_library/fake_class_registry.py` (FakeScriptObject), `_library/opaque_object.py` (types that
are registered as constants), `_inductor/graph.py` (placeholder), `_higher_order_ops/auto_functionalize.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._library import opaque_object
from torch._library.fake_class_registry import FakeScriptObject

from graphstreams.inductor.exclusivity import is_own


def class_of_object(value: Any) -> str:
    """Return the name of the class of an object that a graph is given or makes; empty for tensors, numbers and the rest."""
    if isinstance(value, FakeScriptObject):
        return str(value.script_class_name)
    return type(value).__name__ if isinstance(value, torch.ScriptObject) else ""


def only_names(node: fx.Node) -> bool:
    """Return whether an object is a constant that a graph hands to operators of other libraries alone, as vLLM's layer names.

    Such an object can't change. What else an operator reaches by it is what that operator touches beside its arguments: it is
    declared, or the operator keeps its place.
    """
    real = getattr(node.meta.get("val"), "real_obj", None)
    is_constant = getattr(opaque_object, "is_opaque_constant_type", None)
    return real is not None and is_constant is not None and is_constant(type(real)) and all(map(_is_foreign_call, node.users))


def _is_foreign_call(node: fx.Node) -> bool:
    """Return whether a node calls an operator that is not torch's own, also by way of `auto_functionalized`."""
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator) and target.name().startswith("auto_functionalized"):
        target = node.args[0]  # type: ignore[assignment]
    return isinstance(target, torch._ops.OpOverload) and not is_own(target)
