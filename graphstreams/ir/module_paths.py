"""Name modules, parameters and inputs by the expressions that Dynamo reads them from."""

from __future__ import annotations

import re


def path_of(expression: str) -> str:
    """Return `L['self']._modules['a']._parameters['weight']` as `a.weight`, and `L['self'].a` as `a`."""
    path = re.sub(r"\._(?:modules|parameters|buffers)\['([^']+)'\]", r".\1", expression)
    path = re.sub(r"\['([^']+)'\]", r".\1", path)
    path = path.removeprefix("L.").removeprefix("L").removeprefix(".")
    head, _, rest = path.partition(".")
    return rest if head in ("self", "mod", "module", "model") or rest else head
