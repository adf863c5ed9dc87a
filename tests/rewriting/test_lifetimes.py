"""Check what has to be kept until the join, and where memory that no kernel makes is allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphstreams.ir.plan import JOIN
from graphstreams.pipeline.explain import explain
from graphstreams.rewriting.lifetimes import held_values
from tests.support.sample_modules import FREE_EVENTS, captured, plan_by_hand


class TwoProducts(nn.Module):
    """Two independent products, each scaled by the same number of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(256, 256), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor, number: float) -> Any:
        return self.a(x).sin() * number, self.b(x).cos() * number


class FilledByParts(nn.Module):
    """An `empty` whose halves are filled by two products, beside a third one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 256)
        self.out = nn.Linear(512, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = x.new_empty(64, 512)
        both[:, :256] = self.a(x)
        both[:, 256:] = self.b(x)
        return self.out(both) + self.c(x)


def test_a_number_that_the_host_reads_for_several_streams_does_not_end_the_device_guard() -> None:
    report = explain(TwoProducts(), (torch.zeros(64, 256), 2.5), "h200", FREE_EVENTS, dynamic=True)
    assert (report.verdict, report.reason) == ("clean", "")
    assert ".item()" in report.wrapper and report.wrapper.count("= _acquire_streams(") == 1


def test_memory_that_nothing_fills_as_a_whole_is_allocated_on_the_stream_of_who_fills_it() -> None:
    report = explain(FilledByParts(), (torch.zeros(64, 256),), "h200", FREE_EVENTS)
    assert (report.verdict, report.reason) == ("clean", "")


class Blocks(nn.Module):
    """A chain of blocks, each with two arms that may run side by side."""

    def __init__(self, count: int) -> None:
        super().__init__()
        arms = [nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(4)) for _ in range(count)]
        self.blocks = nn.ModuleList(arms)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second, third, fourth in self.blocks:
            x = x + second(first(x).relu()) + fourth(third(x).relu())
        return x


def test_memory_does_not_grow_with_depth() -> None:
    inputs = (torch.zeros(1024, 1024, dtype=torch.bfloat16),)
    reports = [explain(Blocks(count).bfloat16(), inputs, "h200", FREE_EVENTS) for count in (2, 6)]
    assert [report.verdict for report in reports] == ["clean"] * 2
    assert all(report.plan.streams > 1 for report in reports)
    assert len({report.memory_streamed for report in reports}) == 1


def test_a_value_may_go_where_its_stream_has_waited_for_all_others() -> None:
    """A value goes before a kernel that waits, and only behind every kernel that touches its storage."""
    reading = captured("norms").reading
    graph = reading.kernels
    streams = {k: k % 2 for k in range(len(graph.kernels))}
    plan = plan_by_hand(graph, range(len(graph.kernels)), streams)
    ends = held_values(reading, plan)
    waits = {wait.kernel for event in plan.events for wait in event.waits}
    assert set(ends) <= waits | {JOIN}
    for end, nodes in ends.items():
        for node in nodes:
            touching = [k.id for k in graph.kernels if reading.storages[node] in {a.storage for a in (*k.reads, *k.writes)}]
            assert end == JOIN or max(touching) < end
