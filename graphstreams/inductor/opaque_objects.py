"""Know what a graph is given that is neither a tensor nor a number, such as the mesh that a DTensor is distributed over.

Read in torch 2.15.0: `_library/fake_class_registry.py` (FakeScriptObject), `_inductor/graph.py` (placeholder).
"""

from __future__ import annotations

from typing import Any

import torch
from torch._library.fake_class_registry import FakeScriptObject


def class_of_object(value: Any) -> str:
    """Return the name of the class of an object that a graph is given or makes; empty for tensors, numbers and the rest."""
    if isinstance(value, FakeScriptObject):
        return str(value.script_class_name)
    return type(value).__name__ if isinstance(value, torch.ScriptObject) else ""
