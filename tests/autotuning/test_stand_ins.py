"""Check what is launched in place of collectives while plans are measured."""

from __future__ import annotations

from typing import Any

import pytest

from graphstreams.autotuning.stand_ins import cuts_a_collective, stand_ins
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph

# Two sums of two groups, started at once: a kernel, two starts, the waits in the other order, a kernel.
KERNELS = (
    Kernel(0, "before", "gemm"),
    Kernel(1, "sum", "collective", collective="start", group="tp"),
    Kernel(2, "other_sum", "collective", collective="start", group="dp"),
    Kernel(3, "other_wait", "wait", collective="wait"),
    Kernel(4, "wait", "wait", collective="wait"),
    Kernel(5, "after", "gemm"),
)
EDGES = (
    Edge(0, 1, EdgeKind.RAW), Edge(0, 2, EdgeKind.RAW), Edge(1, 2, EdgeKind.ORDER), Edge(2, 3, EdgeKind.RAW),
    Edge(1, 3, EdgeKind.ORDER), Edge(1, 4, EdgeKind.RAW), Edge(3, 4, EdgeKind.ORDER), Edge(3, 5, EdgeKind.RAW),
    Edge(4, 5, EdgeKind.RAW),
)  # fmt: skip
GRAPH = KernelGraph("g", KERNELS, EDGES)


class Pause:
    def __init__(self, calls: list[Any], group: str, us: float) -> None:
        self.calls, self.group, self.us = calls, group, us

    def start(self) -> None:
        self.calls.append(("start", self.group, self.us))

    def wait(self) -> None:
        self.calls.append(("wait", self.group, self.us))


def test_each_start_is_a_pause_of_its_group_and_each_wait_waits_for_its_own() -> None:
    calls: list[Any] = []
    found = stand_ins(GRAPH, {1: 15.0, 2: 7.0, 3: 0.0, 4: 0.0}, lambda group, us: Pause(calls, group, us))
    assert sorted(found) == [1, 2, 3, 4]
    for kernel in (1, 2, 3, 4):
        found[kernel]()
    assert calls == [("start", "tp", 15.0), ("start", "dp", 7.0), ("wait", "dp", 7.0), ("wait", "tp", 15.0)]


def test_a_wait_for_several_starts_waits_for_all() -> None:
    kernels = (*KERNELS[:3], Kernel(3, "wait", "wait", collective="wait"))
    edges = (Edge(0, 1, EdgeKind.RAW), Edge(1, 3, EdgeKind.RAW), Edge(2, 3, EdgeKind.WAW))
    calls: list[Any] = []
    stand_ins(KernelGraph("g", kernels, edges), {1: 1.0, 2: 2.0}, lambda group, us: Pause(calls, group, us))[3]()
    assert calls == [("wait", "tp", 1.0), ("wait", "dp", 2.0)]


def test_a_graph_without_collectives_has_none() -> None:
    assert stand_ins(KernelGraph("g", (Kernel(0, "k", "gemm"),), ()), {}) == {}


@pytest.mark.parametrize(
    ("kernels", "cut"), [(range(6), False), (range(1, 5), False), (range(4), True), (range(2, 4), False), (range(4, 6), True)]
)
def test_a_part_that_parts_a_start_from_its_wait_cuts_it(kernels: range, cut: bool) -> None:
    assert cuts_a_collective(GRAPH, kernels) is cut
