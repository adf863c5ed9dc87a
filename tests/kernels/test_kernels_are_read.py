"""Check that graphs with these kernels are read, and which may move. The driver is replaced: tracing asks for the target."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from graphstreams.kernels import few_rows, prefetch
from graphstreams.kernels.few_rows import product_of, program
from graphstreams.kernels.few_rows_forms import FLOAT8, Form, MultiplyAndSum, TensorCores
from graphstreams.kernels.launches import Program
from graphstreams.kernels.prefetch import Prefetch
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS


@pytest.fixture(autouse=True)
def _h200_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(driver, "_active", stand_in)


class _Running(torch.nn.Module):
    """Launch what a program says on operands by name, between other kernels."""

    def __init__(self, work: Program, kernels: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.work, self.kernels, self.names = work, [kernels.kernel(each.kernel) for each in work.launches], names

    def forward(self, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = dict(zip(self.names, operands, strict=True))
        for each in self.work.buffers:
            tensors[each.name] = torch.empty(each.shape, dtype=each.dtype, device=operands[0].device)
        for each, kernel in zip(self.work.launches, self.kernels, strict=True):
            named = {parameter: tensors[name] for parameter, name in each.tensors.items()}
            kernel[each.grid](**named, **each.numbers, **each.constants, num_warps=each.warps)
        results = [tensors[each.name] + 1 for each in self.work.buffers[:1]]
        return (*results, operands[0].float().sin())


def reasons(module: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    """Return why each Triton kernel of a graph keeps its place, "" if it may move, by its name."""
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None, f"{outcome.report.stage}: {outcome.report.reason}"
    return {each.name: each.exclusive_reason for each in outcome.reading.kernels.kernels if each.kind == "triton"}


@pytest.mark.parametrize(
    "form",
    [
        MultiplyAndSum(2, 256),
        MultiplyAndSum(2, 256, splits=2),
        TensorCores(32, 64, splits=2),
        TensorCores(64, 64, swapped=True),
    ],
    ids=str,
)
def test_products_of_few_rows_may_move(form: Form) -> None:
    x, w = torch.empty(2, 512, dtype=torch.bfloat16), torch.empty(96, 512, dtype=torch.bfloat16)
    work = program(product_of(x, w.t()), form)
    assert set(reasons(_Running(work, few_rows, ("x", "w")), x, w).values()) == {""}


def test_products_with_scales_may_move() -> None:
    x, w = torch.empty(2, 512).to(FLOAT8), torch.empty(96, 512).to(FLOAT8)
    scales = torch.empty(2, 1), torch.empty(1, 96)
    work = program(product_of(x, w.t(), None, *scales), TensorCores(32, 64))
    found = reasons(_Running(work, few_rows, ("x", "w", "scale_x", "scale_w")), x, w, *scales)
    assert set(found.values()) == {""}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Prefetch("sum"), [""]),
        (Prefetch("load"), [""]),
        (Prefetch("bulk", warps=1), ["inline_asm"]),
    ],
    ids=str,
)
def test_prefetches_by_loads_and_sums_may_move_and_others_keep_their_place(form: Prefetch, expected: list[str]) -> None:
    weight, after = torch.empty(64, 512, dtype=torch.bfloat16), torch.empty(3)
    work = prefetch.program(weight.numel() * 2, form, 2)
    found = list(reasons(_Running(work, prefetch, ("x", "after")), weight, after).values())
    assert len(found) == len(expected) and all(word in reason for word, reason in zip(expected, found, strict=True))
    assert [reason == "" for reason in found] == [word == "" for word in expected]
