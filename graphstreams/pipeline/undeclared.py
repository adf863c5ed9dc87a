"""Tell what it costs that nothing is known of an operator of another library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphstreams.ir.plan import Plan
from graphstreams.messages import listed
from graphstreams.pipeline.select_plan import Task
from graphstreams.planning.modelled_plan import simulated_plan
from graphstreams.reading.dependences import dependences
from graphstreams.reading.reader import storage_use


def cost_of_undeclared(task: Task, us: Sequence[float], plan: Plan | None) -> list[str]:
    """Return, for the report's notes, which operators hold the order, and what the plan would gain if they were declared.

    `us` are the times of the kernels, `plan` is the simulator's for them: a graph with such an operator is never measured.
    """
    graph = task.reading.kernels
    names = sorted({kernel.undeclared for kernel in graph.kernels if kernel.undeclared})
    if not names or plan is None:
        return []
    freed = [replace(k, exclusive=False, exclusive_reason="") if k.undeclared else k for k in graph.kernels]
    declared = replace(graph, kernels=tuple(freed), edges=dependences([storage_use(kernel) for kernel in freed]))
    then = simulated_plan(declared, us, task.device, task.options).streamed_us
    text = f"{listed(names)} hold the order, because what they touch is not known; declared as pure (option operators), "
    return [f"{text}{then:.1f} us are predicted instead of {plan.streamed_us:.1f}"]
