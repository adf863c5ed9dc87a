"""Compare generated code with the plan: what each stream launches, records and waits for, in order.

Read in torch 2.15.0: `_inductor/scheduler.py` (get_node_stream, stream_idx_to_user_obj_idx).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from graphstreams.inductor import scheduler_nodes
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.scheduling import regions_of, synchronizes
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan

Steps = dict[int, list[str]]  # per stream: "launch 3" (a kernel id), "record 1", "wait 1" (an event)


def planned_steps(plan: Plan, graph: KernelGraph) -> Steps:
    """Return what the plan asks of each stream. Kernels without a launch do not appear."""
    steps: Steps = {stream: [] for stream in range(plan.streams)}
    for step, number, stream in plan.steps():
        if step != "launch" or graph.kernels[number].launches:
            steps[stream].append(f"{step} {number}")
    return steps


def lowered_steps(lowered: Lowered) -> Steps:
    """Return what the code generated for a rewritten graph does on each stream, with the plan's ids of kernels.

    Launches of one kernel that follow each other count as one.
    """
    steps: Steps = {0: []}
    for node, stream in _on_streams(lowered):
        own = steps.setdefault(stream, [])
        for step in _steps(node):
            if not own or own[-1] != step or not step.startswith("launch"):
                own.append(step)
    return steps


def _steps(node: Any) -> Iterator[str]:
    if synchronizes(node):
        yield f"{scheduler_nodes.stream_operation(node).removesuffix('_event')} {node.node.constant_args[0]}"
    elif scheduler_nodes.launch_count(node):
        yield from (f"launch {kernel}" for kernel in sorted(regions_of(node)))


def first_difference(planned: Steps, found: Steps) -> str:
    """Return where two orders first differ, in words; empty if they are the same."""
    for stream, place, one, other in _differences(planned, found):
        return f"step {place} of stream {stream} is {other!r}, planned was {one!r}"
    return ""


def differing_kernels(planned: Steps, found: Steps) -> frozenset[int]:
    """Return the kernels whose launches are where two orders first differ."""
    steps = next(((one, other) for _, _, one, other in _differences(planned, found)), ())
    return frozenset(int(step.removeprefix("launch ")) for step in steps if step.startswith("launch "))


def _differences(planned: Steps, found: Steps) -> Iterator[tuple[int, int, str, str]]:
    """Yield each stream and place at which two orders differ, with the step of either."""
    for stream in sorted({*planned, *found}):
        pairs = zip_longest(planned.get(stream, []), found.get(stream, []), fillvalue="nothing")
        yield from ((stream, place, one, other) for place, (one, other) in enumerate(pairs) if one != other)


def launch_count(lowered: Lowered) -> int:
    """Return how many kernels of the model the generated code launches."""
    return sum(scheduler_nodes.launch_count(node) for node in lowered.nodes)


def launched_kernels(lowered: Lowered) -> dict[int, list[frozenset[int]]]:
    """Return, for each stream, the kernels that each of its launches computes, in the order of the code."""
    launched: dict[int, list[frozenset[int]]] = {}
    for node, stream in _on_streams(lowered):
        kernels = frozenset(regions_of(node))
        launched.setdefault(stream, []).extend([kernels] * scheduler_nodes.launch_count(node))
    return launched


def unnamed_steps(lowered: Lowered) -> Steps:
    """Return what `lowered_steps` does with each launch by itself and unnamed, which is what the wrapper's text has to show."""
    steps: Steps = {0: []}
    for node, stream in _on_streams(lowered):
        launches = ["launch"] * scheduler_nodes.launch_count(node)
        steps.setdefault(stream, []).extend(launches or _steps(node))
    return steps


def without_names(steps: Steps) -> Steps:
    """Return the same steps with every launch called "launch", and events that the wrapper's text names by their number."""
    return {
        stream: ["launch" if step.startswith("launch") else step.replace(" event", " ") for step in own]
        for stream, own in steps.items()
    }


def _on_streams(lowered: Lowered) -> Iterator[tuple[Any, int]]:
    scheduler = lowered.graph.scheduler
    for node in lowered.nodes:
        yield node, scheduler.stream_idx_to_user_obj_idx.get(scheduler.get_node_stream(node), 0)
