"""Check the residual paths against loops in float64, and the Triton kernel against the formulas in Triton's interpreter."""

from __future__ import annotations

import deepseek_residual as example
import pytest
import torch
from torch import Tensor

from tests.support.processes import last_line

TOKENS, COPIES, HIDDEN, ITERATIONS = 3, 4, 8, 5
KERNEL = """
import torch
from deepseek_residual import mixing_weights
from hyper_connections_kernel import mixing_weights_on_cuda

generator = torch.Generator().manual_seed(0)
def drawn(*shape):
    return torch.randn(shape, generator=generator)
given = (3 * drawn(5, 24), drawn(5, 4).square(), drawn(24), drawn(3), 20, 1e-6)
for expected, found in zip(mixing_weights(*given), mixing_weights_on_cuda(*given), strict=True):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
print("equal")
"""


def made(seed: int = 0) -> example.HyperConnections:
    module = example.HyperConnections(HIDDEN, COPIES, ITERATIONS)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(generator=generator)
    return module


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def normalized(matrix: list[list[float]]) -> list[list[float]]:
    return [[entry / (sum(row) + 1e-6) for entry in row] for row in matrix]


def transposed(matrix: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def naive_weights(module: example.HyperConnections, copies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of one token, entry by entry."""
    flat, n = copies.double().flatten(), COPIES
    mixes = module.weight.double() @ flat / (flat.pow(2).mean() + 1e-6).sqrt()
    base, scale = module.base.double(), module.scale.double()
    before = torch.sigmoid(mixes[:n] * scale[0] + base[:n]) + 1e-6
    after = 2 * torch.sigmoid(mixes[n : 2 * n] * scale[1] + base[n : 2 * n])
    logits = (mixes[2 * n :] * scale[2] + base[2 * n :]).view(n, n)
    matrix = (logits.softmax(dim=1) + 1e-6).tolist()
    matrix = transposed(normalized(transposed(matrix)))
    for _ in range(ITERATIONS - 1):
        matrix = transposed(normalized(transposed(normalized(matrix))))
    return before, after, torch.tensor(matrix, dtype=torch.float64)


def test_copies_are_collapsed_and_mixed_as_loops_do() -> None:
    module, copies, output = made(), drawn(TOKENS, COPIES, HIDDEN), drawn(TOKENS, HIDDEN, seed=2)
    x, held = module((copies,))
    after = example.HyperConnections.finish((output, *held))
    for token in range(TOKENS):
        own = copies[token].double()
        before, added, mix = naive_weights(module, own)
        torch.testing.assert_close(x[token].double(), sum(before[i] * own[i] for i in range(COPIES)), atol=1e-5, rtol=1e-4)
        for i in range(COPIES):
            expected = added[i] * output[token].double() + sum(mix[j, i] * own[j] for j in range(COPIES))
            torch.testing.assert_close(after[token, i].double(), expected, atol=1e-5, rtol=1e-4)


def test_the_next_sublayer_begins_with_what_the_last_one_made() -> None:
    module, copies, output = made(), drawn(TOKENS, COPIES, HIDDEN), drawn(TOKENS, HIDDEN, seed=2)
    carried = (output, *module((copies,))[1])
    for one, other in zip(module(carried), module((example.HyperConnections.finish(carried),)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_rows_and_columns_of_the_mix_sum_to_one() -> None:
    products, squares = drawn(TOKENS, 24, seed=3), torch.ones(TOKENS, COPIES)
    mix = example.mixing_weights(products, squares, torch.zeros(24), torch.ones(3), 50, 1e-6)[2]
    for dim in (1, 2):
        torch.testing.assert_close(mix.sum(dim), torch.ones(TOKENS, COPIES), atol=1e-4, rtol=0)


def test_the_collapse_is_a_weighted_sum() -> None:
    module = example.Collapse(HIDDEN, COPIES)
    for name, parameter in module.named_parameters():
        parameter.copy_(drawn(*parameter.shape, seed=len(name)))
    copies = drawn(1, COPIES, HIDDEN)
    flat = copies.double().flatten()
    mixes = module.weight.double() @ flat / (flat.pow(2).mean() + 1e-6).sqrt()
    weights = torch.sigmoid(mixes * module.scale.double() + module.base.double()) + 1e-6
    torch.testing.assert_close(module(copies)[0].double(), weights @ copies[0].double(), atol=1e-5, rtol=1e-4)


def test_the_sum_adds_what_is_carried() -> None:
    residual, output = drawn(TOKENS, HIDDEN), drawn(TOKENS, HIDDEN, seed=2)
    x, held = example.Sum()((residual,))
    assert x is residual and held == (residual,)
    assert torch.equal(example.Sum.finish((output, *held)), output + residual)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU")
def test_the_kernel_computes_what_the_formulas_do() -> None:
    assert last_line(KERNEL, more={"TRITON_INTERPRET": "1"}) == "equal"
