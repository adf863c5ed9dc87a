"""Check that pieces of models as vLLM compiles them are planned: its operators, layer names, settings and ranges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._inductor import config

from graphstreams import explain
from graphstreams.reports.report import Report
from tests.support.engine_pieces import CACHE, CACHED, NAMESPACE, PRODUCTS, Uncut, piece

SETTINGS = {"combo_kernels": True, "enable_auto_functionalized_v2": False}  # as vLLM compiles


def report_on(tokens: int, fp8: bool = False, dynamic: bool | None = None, **options: Any) -> Report:
    module, inputs = piece(tokens, fp8)
    with config.patch(SETTINGS):
        return explain(module, inputs, "h200", {"operators": PRODUCTS, **options}, dynamic)


@pytest.mark.parametrize("fp8", [False, True])
def test_the_piece_of_v32_beats_combo_kernels_on_streams(fp8: bool) -> None:
    found = report_on(8, fp8, min_gain=1 - 1 / 1.10)  # what combo kernels may save is taken off the serial time
    assert found.verdict == "clean", found.reason
    assert any("combo_kernels=True" in note for note in found.notes)


def test_a_range_is_planned_for_fewer_tokens_than_its_example() -> None:
    found = report_on(8192, dynamic=True, max_tokens=64)
    assert found.verdict == "clean", found.reason
    assert found.threshold is not None and found.threshold.largest == 64
    assert any(note.startswith("planned for 64 tokens: 8192") for note in found.notes)


def test_an_operator_that_is_not_declared_holds_the_order() -> None:
    undeclared, declared = report_on(8, fp8=True, operators={}), report_on(8, fp8=True)
    assert declared.plan is not None and declared.verdict == "clean"
    assert undeclared.plan is None or undeclared.plan.streamed_us > declared.plan.streamed_us
    assert any("hold the order" in note and f"{NAMESPACE}::cutlass_scaled_mm" in note for note in undeclared.notes)


def uncut(**operators: Any) -> Report:
    with torch.device("meta"):
        module, hidden = Uncut(), torch.empty(4, 4096, dtype=torch.bfloat16)
    with config.patch(SETTINGS):
        return explain(module, (hidden,), "h200", {"operators": operators, "min_gain": 0.0})


def test_operators_may_take_the_name_of_a_layer() -> None:
    found = uncut(**CACHED)
    assert found.verdict == "clean", found.reason
    graph = found.kernels
    assert graph is not None
    assert not any(kernel.exclusive_reason for kernel in graph.kernels)
    cached = [kernel.id for kernel in graph.kernels if any(access.storage == f"resource {CACHE}" for access in kernel.writes)]
    assert len(cached) == 2 and any((edge.before, edge.after) == (cached[0], cached[1]) for edge in graph.edges)


def test_the_name_of_a_layer_says_nothing_of_what_an_operator_touches() -> None:
    found = uncut()
    reasons = [kernel.exclusive_reason for kernel in found.kernels.kernels if kernel.exclusive_reason]  # type: ignore[union-attr]
    assert len(reasons) == 2 and all(NAMESPACE in reason for reason in reasons)
