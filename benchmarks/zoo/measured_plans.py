"""Time the kernels of a graph, and plans of it: random ones, and those that a search comes by.

The kernels are written as `benchmarks/contention.py` and `benchmarks/roofline.py` read them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from graphstreams.autotuning.measured_search import search_by_measuring
from graphstreams.autotuning.timing import medians_in_turns
from graphstreams.benchmark.compile_variants import plan_of
from graphstreams.benchmark.variants import ReplayableGraph
from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import device_at_hand
from graphstreams.ir.kernels import Kernel, KernelGraph, value_of
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.modelled_plan import plan_space
from graphstreams.planning.paths import Assignment

ROUNDS, REPLAYS = 5, 10  # of each plan, in turns with the serial graph
STREAMS = (2, 3, 4, 5)
RANDOM = 3  # of so many plans one is random: good ones are harder to rank


def kernels_measured(name: str, measured: ReplayableGraph) -> dict[str, Any]:
    """Return the kernels of a graph with their us, measured and by the roofline, and the us of all on one stream."""
    graph, replayer = measured.graph, measured.replayer
    us = replayer.kernel_times(measured.order)
    (serial,) = medians_in_turns([replayer.capture_serial(measured.order)])
    priced = Roofline(device_at_hand()).price(graph)
    kernels = [
        {
            **_described(kernel, graph),
            "us": us.get(kernel.id, 0.0),
            "priced": round(priced[kernel.id], 3),
            "blocks": [[blocks.count, blocks.at_once] for blocks in replayer.blocks(kernel.id)],
        }
        for kernel in graph.kernels
    ]
    edges = [[edge.before, edge.after, edge.kind.value] for edge in graph.edges]
    return {"name": name, "serial": serial, "order": measured.order, "kernels": kernels, "edges": edges}


def _described(kernel: Kernel, graph: KernelGraph) -> dict[str, Any]:
    sizes = {
        key: [[access.storage, int(value_of(access.bytes, graph.sizes))] for access in getattr(kernel, key)]
        for key in ("reads", "writes")
    }
    return {
        "name": kernel.name, "kind": kernel.kind, "dtype": kernel.dtype, "ops": list(kernel.ops),
        "launches": list(kernel.launches), "flops": int(value_of(kernel.flops, graph.sizes)),
        "exclusive": kernel.exclusive, **sizes,
    }  # fmt: skip


def plans_measured(measured: ReplayableGraph, told: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return `count` plans with their us, timed beside the serial graph: a third random ones, the others those of a search."""
    graph, us = measured.graph, [kernel["us"] for kernel in told["kernels"]]
    serial = measured.replayer.capture_serial(measured.order)
    found: list[dict[str, Any]] = []

    def time_of(plan: Plan, kind: str) -> float:
        before, after = medians_in_turns([serial, measured.replayer.capture_plan(plan)], ROUNDS, REPLAYS)
        assignment = assignment_of(plan)
        stream = [int(each) for each in assignment.stream]
        found.append({"kind": kind, "order": list(assignment.order), "stream": stream, "serial": before, "us": after})
        return after * told["serial"] / before

    generator = random.Random(0)
    for _ in range(count // RANDOM):
        time_of(plan_of(graph, random_assignment(graph, generator), us), "random")
    blocks = {number: [(c, a) for c, a in kernel["blocks"]] for number, kernel in enumerate(told["kernels"])}
    space = plan_space(graph, us, device_at_hand(), Options(), blocks)
    search_by_measuring(space, lambda plan: time_of(plan, "search"), count - count // RANDOM)
    return found


def random_assignment(graph: KernelGraph, generator: random.Random) -> Assignment:
    """Return a random order that keeps dependences, and a random stream for each kernel; outputs stay on the caller's."""
    waiting = [len(before) for before in graph.predecessors()]
    after, ready, order = graph.successors(), [k for k, n in enumerate(waiting) if not n], list[int]()
    while ready:
        kernel = ready.pop(generator.randrange(len(ready)))
        order.append(kernel)
        for later in after[kernel]:
            waiting[later] -= 1
            if not waiting[later]:
                ready.append(later)
    return Assignment(order, _random_streams(graph, order, generator))


def _random_streams(graph: KernelGraph, order: Sequence[int], generator: random.Random) -> list[int]:
    streams, change, current = generator.choice(STREAMS), generator.choice((0.2, 0.5, 1.0)), 0
    found = [0] * len(order)
    for kernel in order:
        if generator.random() < change:
            current = generator.randrange(streams)
        held = graph.kernels[kernel].exclusive or graph.kernels[kernel].allocates_output
        found[kernel] = 0 if held else current
    return found
