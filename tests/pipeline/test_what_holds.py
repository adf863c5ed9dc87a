"""Check what is said to keep the kernels of a graph from gaining side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphstreams.ir.kernels import EdgeKind, Kernel, KernelGraph
from graphstreams.options import Options
from graphstreams.pipeline.explain import explain
from graphstreams.pipeline.select_plan import path_too_long
from graphstreams.pipeline.what_holds import what_holds
from tests.support.kernel_graphs import graph_of

CHAIN = [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_graph_without_kernels_or_with_one_says_so() -> None:
    nothing = KernelGraph("g", (Kernel(0, "view", "none"), Kernel(1, "view#2", "none")), ())
    assert what_holds(graph_of(0), [], 0.02) == what_holds(nothing, [0.0, 0.0], 0.02) == "it has no kernels"
    assert what_holds(graph_of(1), [3.0], 0.02) == "it has one kernel, 'k0'"
    unit = Kernel(0, "norm", "reduction", launches=("one", "other"), joined="they share what has no name")
    assert what_holds(KernelGraph("g", (unit,), ()), [3.0], 0.02) == (
        "its 2 launches are one unit, 'norm': they share what has no name"
    )


def test_a_chain_is_told_by_its_longest_kernels() -> None:
    assert what_holds(graph_of(5, CHAIN), [10.0, 40.0, 20.0, 5.0, 25.0], 0.02) == (
        "its 5 kernels form one chain, the longest of them 'k1' (40.0%), 'k4' (25.0%), 'k2' (20.0%) and 2 more"
    )


def test_a_path_that_leaves_too_little_is_told_with_its_longest_kernels() -> None:
    assert what_holds(graph_of(3, [(0, 1)]), [90.0, 9.0, 1.0], 0.02) == (
        "its longest path of kernels takes 99.0% of the serial time, the longest of them 'k0' (90.0%), 'k1' (9.0%)"
    )


def test_kernels_beside_a_path_that_leaves_enough_share_the_gpu_with_it() -> None:
    assert what_holds(graph_of(3, [(0, 1)]), [50.0, 25.0, 25.0], 0.02) == (
        "its longest path of kernels takes 75.0% of the serial time, the longest of them 'k0' (50.0%), 'k1' (25.0%), "
        "and those beside it, the longest 'k2' (25.0%), share the GPU with it"
    )


def test_kernels_that_hold_the_order_are_named() -> None:
    order = [(0, 1, EdgeKind.ORDER), (1, 2, EdgeKind.ORDER)]
    assert what_holds(graph_of(3, order, exclusive=[1]), [40.0, 20.0, 40.0], 0.02).endswith(
        "; 'k1' keeps its place against every other kernel, without which the longest path would take 40.0%"
    )
    assert "keeps its place" not in what_holds(graph_of(3, [(0, 1), (1, 2), *order], exclusive=[1]), [4.0, 2.0, 4.0], 0.02)


def test_nothing_is_said_without_times() -> None:
    assert what_holds(graph_of(2), [0.0, 0.0], 0.02) == what_holds(graph_of(2), [], 0.02) == ""


def test_a_path_that_no_plan_beats_is_named() -> None:
    assert path_too_long(graph_of(3, [(0, 1)]), [90.0, 9.0, 1.0], Options()) == (
        "no plan can gain more than 1.0%, less than min_gain=2.0%: "
        "its longest path of kernels takes 99.0% of the serial time, the longest of them 'k0' (90.0%), 'k1' (9.0%)"
    )
    assert path_too_long(graph_of(2), [1.0, 1.0], Options()) == ""


class _Chain(nn.Module):
    """Two products in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(512, 512)
        self.second = nn.Linear(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        """Return the second one's result."""
        result: Tensor = self.second(self.first(x))
        return result


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no placement on several streams is faster: its 2 kernels form one chain, the longest of them 'first' ("),
        ({"streams": 1}, "the option streams is 1"),
    ],
)
def test_the_report_of_a_chain_names_its_kernels(options: dict[str, int], reason: str) -> None:
    report = explain(_Chain(), torch.empty(4, 512), target="h200", options=options)
    assert report.verdict == "serial" and report.reason.startswith(reason)
