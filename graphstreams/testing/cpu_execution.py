"""Run a post-grad graph node by node on the CPU, rewritten or not: the numbers to compare without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphstreams.autotuning.cuda_graph import clones
from graphstreams.inductor.stream_ops import control_deps


class OnCpu(fx.Interpreter):
    """An interpreter for which the CPU is every device and one host thread every stream."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is control_deps:
            _, subgraph, *values = args
            return OnCpu(subgraph).run(*values)
        if getattr(target, "namespace", None) == "streams":
            return None
        cpu = torch.device("cpu")
        args = torch.utils._pytree.tree_map(lambda a: cpu if isinstance(a, torch.device) else a, args)
        result = super().call_function(target, args, {k: cpu if k == "device" else v for k, v in kwargs.items()})
        # Inductor re-inplaces foreach operators too: to the graph their value is the list that they have written.
        in_place = result is None and getattr(target, "_opname", "").startswith("_foreach_")
        return args[0] if in_place else result


def run_on_cpu(module: fx.GraphModule, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return outputs of the graph on copies of `inputs` (CPU tensors and sizes), and those copies as the graph leaves them."""
    copies = clones(inputs)
    with torch.no_grad():
        outputs = OnCpu(module).run(*copies)
    return list(outputs), copies
