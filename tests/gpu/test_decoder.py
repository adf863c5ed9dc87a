"""Run whole decoder layers on a GPU: the mixing kernel against its formulas, and the benchmark's variants beside serial."""

from __future__ import annotations

from typing import Any

import deepseek_residual
import pytest
import torch
from bench_decoder import Measures, measure
from deepseek_cases import Case, looped
from deepseek_decoder import Config
from process_group import Ranks

from graphstreams.benchmark.run import prepared

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tokens", [1, 5])
def test_the_mixing_kernel_computes_what_the_formulas_do(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, 24), (tokens, 4), (24,), (3,))
    products, squares, base, scale = (torch.randn(shape, generator=generator) for shape in shapes)
    given = (3 * products, squares.square(), base, scale)
    expected = deepseek_residual.mixing_weights(*given, 20, 1e-6)
    found = deepseek_residual.mixing_weights_on_cuda(*(each.cuda() for each in given), 20, 1e-6)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        Case(Config.v32(experts=16)),
        Case(Config.v32(experts=16, products="batched")),
        looped(Config.v4_flash(("csa", "hca"), experts=16)),
    ],
    ids=["v32", "batched", "v4-loop"],
)
def test_every_variant_runs_and_graphstreams_has_serials_bits(case: Case) -> None:
    said: list[str] = []
    with prepared():
        row: dict[str, Any] = measure("tested", case, Ranks(), Measures(rounds=2, replays=3), said.append)
    assert "failed" not in row, row
    assert [name for name, record in row["rivals"].items() if record.get("failed")] == []
    assert row["rivals"]["graphstreams"]["wrong"] == 0
