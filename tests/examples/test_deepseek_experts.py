"""Check the mixture of experts against loops over tokens and experts in float64, and its places in an order by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import deepseek_experts as example
import pytest
import torch
from deepseek_v32 import Linear
from torch import Tensor

V32 = example.ExpertsConfig(experts=8, topk=3, groups=4, topk_groups=2, intermediate=24)
V4 = example.ExpertsConfig(8, 3, 1, 1, 24, "sqrtsoftplus", 1.5, 0.5)
HIDDEN = 16


def made(config: example.ExpertsConfig, seed: int = 0) -> example.MixtureOfExperts:
    """A mixture in float32 whose biases decide as much as its scores."""
    shared = example.GatedMLP(HIDDEN, config.intermediate, config.limit, partial(Linear, dtype=torch.float32), lambda x: x)
    module = example.MixtureOfExperts(config, HIDDEN, 1, torch.float32, shared).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(std=0.5, generator=generator)
    return module


def mlp(x: Tensor, gate_up: Tensor, down: Tensor, limit: float | None) -> Tensor:
    gate, up = (gate_up @ x).split(gate_up.shape[0] // 2)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(min=-limit, max=limit)
    return down @ (gate / (1 + (-gate).exp()) * up)


def routing(config: example.ExpertsConfig, logits: list[float], bias: list[float]) -> dict[int, float]:
    """The weights of one token's experts, by their definition."""
    score = [
        1 / (1 + math.exp(-each)) if config.scores == "sigmoid" else math.sqrt(math.log1p(math.exp(each))) for each in logits
    ]
    biased = [one + other for one, other in zip(score, bias, strict=True)]
    size = config.experts // config.groups
    groups = [list(range(start, start + size)) for start in range(0, config.experts, size)]
    if config.groups > 1:
        groups.sort(key=lambda group: -sum(sorted((biased[expert] for expert in group), reverse=True)[:2]))
    allowed = [expert for group in groups[: config.topk_groups] for expert in group]
    taken = sorted(allowed, key=lambda expert: -biased[expert])[: config.topk]
    total = sum(score[expert] for expert in taken)
    return {expert: score[expert] / total * config.scale for expert in taken}


def naive(module: example.MixtureOfExperts, x: Tensor) -> Tensor:
    """All tokens in float64, one expert after another."""
    config, weights = module.router.config, {name: value.double() for name, value in module.named_parameters()}
    rows = []
    for token in x.double():
        logits = (weights["router.weight"] @ token).tolist()
        row = mlp(token, weights["shared.gate_up.weight"], weights["shared.down.weight"], config.limit)
        for expert, weight in routing(config, logits, weights["router.bias"].tolist()).items():
            row = row + weight * mlp(token, weights["experts.gate_up"][expert], weights["experts.down"][expert], config.limit)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("products", ["grouped", "batched"])
@pytest.mark.parametrize("config", [V32, V4], ids=["v32", "v4"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_experts_compute_what_a_loop_over_them_does(tokens: int, config: example.ExpertsConfig, products: str) -> None:
    module = made(replace(config, products=products))
    x = torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x).double(), naive(module, x), atol=1e-5, rtol=1e-4)


def test_only_the_best_groups_are_taken() -> None:
    module = made(V32).router
    module.weight.zero_()
    # The group of experts 2 and 3 has the best single one, those of 4 to 7 the best pairs.
    module.bias.copy_(torch.tensor([0.0, 0.0, 0.9, 0.0, 0.6, 0.5, 0.5, 0.5]))
    weights, experts = module(torch.zeros(1, HIDDEN))
    assert set(experts[0].tolist()) < {4, 5, 6, 7} and 4 in experts[0]
    torch.testing.assert_close(weights, torch.full((1, 3), V32.scale / 3))


def test_equal_groups_are_taken_in_order() -> None:
    module = made(V32).router
    module.weight.zero_()
    module.bias.zero_()
    assert set(module(torch.zeros(1, HIDDEN))[1][0].tolist()) < {0, 1, 2, 3}


def test_ranks_are_places_in_ascending_order() -> None:
    assert example.ranks(torch.tensor([[3, 1, 3, 2], [0, 0, 0, 0]])).tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "8 experts are no 3 groups"),
        ({"topk_groups": 5}, "of which 5 are taken"),
        ({"topk": 5}, "5 experts can't be taken of 2 groups of 2"),
        ({"groups": 8, "topk_groups": 4}, "a group needs two experts"),
    ],
)
def test_config_rejects(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(V32, **changes)
