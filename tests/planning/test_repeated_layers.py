"""Check which layers of hand-made graphs count as alike, and the plans that they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.options import Options
from graphstreams.planning.modelled_plan import plan_space, simulated_layers, simulated_plan
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.repeated_layers import Layers, layered, note_on_layers, part_of, repeated_layers
from graphstreams.planning.synchronization import check_plan

H200 = DEVICES["h200"]
# A layer: a norm, two branches of two kernels each, and their sum. Both branches read the norm.
KINDS = ("norm", "up", "down", "query", "attend", "sum")
INNER = ((0, 1), (1, 2), (0, 3), (3, 4), (2, 5), (4, 5))
US = (3.0, 20.0, 15.0, 18.0, 12.0, 3.0)
LAYERS = 40


def deep(count: int = LAYERS, before: int = 2, behind: int = 1) -> tuple[KernelGraph, list[float]]:
    """Return a chain of layers with other kernels before and behind, and the us of each kernel."""
    names = [f"first {i}" for i in range(before)] + [f"{kind} {n}" for n in range(count) for kind in KINDS]
    names += [f"last {i}" for i in range(behind)]
    kernels = [Kernel(i, name, "pointwise", (), (name.rstrip("0123456789 "),)) for i, name in enumerate(names)]
    edges = [Edge(i, i + 1, EdgeKind.RAW) for i in range(before)]
    for number in range(count):
        start = before + number * len(KINDS)
        edges += [Edge(start + a, start + b, EdgeKind.RAW) for a, b in INNER]
        if number or before:
            edges.append(Edge(start - 1, start, EdgeKind.RAW))
    if behind:
        edges.append(Edge(len(names) - behind - 1, len(names) - behind, EdgeKind.RAW))
    return KernelGraph("deep", tuple(kernels), tuple(dict.fromkeys(edges))), [5.0] * before + [*US] * count + [5.0] * behind


def test_layers_are_cut_where_one_value_passes_to_the_next() -> None:
    graph, _ = deep()
    assert repeated_layers(graph) == Layers(2, len(KINDS), LAYERS)


def test_the_plan_of_a_layer_serves_all_also_if_some_measured_times_are_far_off() -> None:
    graph, us = deep()
    layers = repeated_layers(graph)
    assert layers is not None
    noisy = [time * (3.0 if kernel % 97 == 0 else 1.0) for kernel, time in enumerate(us)]
    stream = simulated_plan(graph, noisy, H200, Options()).stream_of()
    rows = {tuple(stream[kernel] for kernel in layers.kernels(number)) for number in range(layers.count)}
    assert len(rows) == 1


@pytest.mark.parametrize("more", [{"flops": 7}, {"reads": (Access("x", 8),)}, {"writes": (Access("x", 8),)}])
def test_a_layer_with_more_work_ends_the_run(more: dict[str, Any]) -> None:
    graph, _ = deep()
    kernels = list(graph.kernels)
    kernels[2 + 30 * len(KINDS) + 1] = replace(kernels[2 + 30 * len(KINDS) + 1], **more)  # in the layer 30
    assert repeated_layers(replace(graph, kernels=tuple(kernels))) == Layers(2, len(KINDS), 30)


def test_operands_of_other_names_are_no_other_work() -> None:
    graph, _ = deep()
    kernels = [
        replace(kernel, reads=(Access(f"arg{9 + kernel.id}", 8), Access("buf", 4))[:: (-1) ** kernel.id])
        for kernel in graph.kernels
    ]
    assert repeated_layers(replace(graph, kernels=tuple(kernels))) == Layers(2, len(KINDS), LAYERS)


def test_a_layer_with_another_dependence_ends_the_run() -> None:
    graph, _ = deep()
    start = 2 + 10 * len(KINDS)
    other = replace(graph, edges=(*graph.edges, Edge(start + 1, start + 4, EdgeKind.WAR)))
    assert repeated_layers(other) == Layers(start + len(KINDS), len(KINDS), LAYERS - 11)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_small_graphs_are_searched_at_once(count: int) -> None:
    assert repeated_layers(deep(count)[0]) is None


def test_graphs_without_layers_are_searched_at_once() -> None:
    kernels = tuple(Kernel(i, f"k{i}", "pointwise", (), (f"k{i}",)) for i in range(300))
    assert repeated_layers(KernelGraph("all differ", kernels, ())) is None


def test_a_part_has_the_edges_inside_of_it() -> None:
    graph, _ = deep()
    part = part_of(graph, range(8, 14))
    assert [(edge.before, edge.after) for edge in part.edges] == sorted(INNER, key=lambda e: [*INNER].index(e))
    assert [kernel.id for kernel in part.kernels] == list(range(6))
    assert part.kernels[0].name == "norm 1"


def test_every_layer_has_the_plan_of_one_and_gains_as_much() -> None:
    graph, us = deep()
    layers = repeated_layers(graph)
    assert layers is not None
    alone = part_of(graph, layers.kernels(5))
    plan = search_on_simulator(plan_space(alone, US, H200, Options()))
    whole = plan_space(graph, us, H200, Options())
    tiled = whole.plan(simulated_layers(graph, us, H200, Options(), layers))
    check_plan(graph, tiled)
    stream = tiled.stream_of()
    rows = {tuple(stream[kernel] for kernel in layers.kernels(number)) for number in range(layers.count)}
    assert len(rows) == 1
    ends = sum(us[:2]) + us[-1]
    assert (tiled.serial_us - tiled.streamed_us) >= 0.95 * LAYERS * (plan.serial_us - plan.streamed_us) - ends


def test_the_simulator_never_takes_a_worse_plan_for_the_layers() -> None:
    graph, us = deep()
    plan = simulated_plan(graph, us, H200, Options())
    check_plan(graph, plan)
    assert plan.streamed_us <= search_on_simulator(plan_space(graph, us, H200, Options())).streamed_us


def test_a_plan_of_the_layer_that_is_given_is_used_in_each() -> None:
    graph, us = deep()
    layers = repeated_layers(graph)
    assert layers is not None
    space = plan_space(part_of(graph, layers.kernels(layers.count // 2)), US, H200, Options())
    given = replace(space.initial[0], stream=[0, 1, 1, 0, 0, 0], priority=-2)
    found = simulated_layers(graph, us, H200, Options(), layers, given)
    assert found.priority == -2
    assert [found.stream[kernel] for kernel in layers.kernels(7)] == [0, 1, 1, 0, 0, 0]
    assert sorted(found.order) == list(range(len(us)))


def test_layers_alone_make_the_whole_graph() -> None:
    layers = Layers(0, 2, 3)
    space = plan_space(KernelGraph("two", tuple(Kernel(i, str(i), "gemm") for i in range(2)), ()), [1.0, 1.0], H200, Options())
    assert layers.parts(6) == [range(0, 2), range(2, 4), range(4, 6)]
    assert list(layered(layers, 6, lambda part: space.initial[0]).order) == [0, 1, 2, 3, 4, 5]


def test_the_report_tells_of_the_layers() -> None:
    (note,) = note_on_layers(deep()[0])
    assert note == "40 layers of 6 kernels are alike, from 'norm 0' on: a plan of one of them can serve all"
    assert note_on_layers(deep(3)[0]) == []
