"""Check what has to be kept until the join, and where memory that no kernel makes is allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphstreams.pipeline.explain import explain
from tests.support.sample_modules import FREE_EVENTS


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
