"""Models whose calls choose a size: a block of BERT, a DLRM, an MMOE, and DeepSeek V3.2's layer with any number of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepseek_v32
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DynamicModel:
    """A model at its full size, for planning on the meta device, or tiny, for the CPU; and calls of any size."""

    build: Callable[[bool], nn.Module]  # takes whether it is to be tiny
    inputs: Callable[[bool, int], tuple[Tensor, ...]]  # takes whether it is tiny, and the size
    marks: tuple[tuple[int, int], ...]  # (input, dimension) of that size
    sizes: tuple[int, int, int]  # of the example at its full size; of the tiny example; a larger tiny one

    def made(self, tiny: bool) -> nn.Module:
        """Return the model: the same weights at each call, none at its full size."""
        torch.manual_seed(0)
        with torch.device("cpu" if tiny else "meta"):
            return self.build(tiny).eval().requires_grad_(False)

    def call(self, tiny: bool, size: int, marked: bool = True) -> tuple[Tensor, ...]:
        """Return the inputs of a call of a size, which is marked as dynamic."""
        torch.manual_seed(size)
        with torch.device("cpu" if tiny else "meta"):
            values = self.inputs(tiny, size)
        for place, dimension in self.marks if marked else ():
            torch._dynamo.mark_dynamic(values[place], dimension)
        return values


class BertBlock(nn.Module):
    """A block of BERT: attention with a mask of padding, then an MLP, each with a normalization behind it."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, places, hidden = x.shape
        heads = (each(x).view(batch, places, self.heads, -1).transpose(1, 2) for each in (self.query, self.key, self.value))
        # The shape that transformers' models have: the mask of a text for each of its places.
        seen = mask[:, None, None, :].bool().expand(batch, 1, places, places)
        attended = nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen)
        x = self.norms[0](x + self.output(attended.transpose(1, 2).reshape(batch, places, hidden)))
        result: Tensor = self.norms[1](x + self.down(nn.functional.gelu(self.up(x))))
        return result


def _bert(tiny: bool) -> nn.Module:
    return BertBlock(32, 4) if tiny else BertBlock(768, 12).bfloat16()


def _texts(tiny: bool, batch: int, places: int) -> tuple[Tensor, Tensor]:
    hidden, dtype = (32, torch.float32) if tiny else (768, torch.bfloat16)
    mask = torch.ones(batch, places, dtype=torch.long)
    mask[0, -2:] = 0
    return torch.randn(batch, places, hidden, dtype=dtype), mask


class Dlrm(nn.Module):
    """Layers for numbers, a bag of embeddings for each category, all their products, and layers above."""

    def __init__(self, tables: int, below: tuple[int, ...], above: tuple[int, ...]) -> None:
        super().__init__()
        size = below[-1]
        self.bags = nn.ModuleList(nn.EmbeddingBag(100, size, mode="sum") for _ in range(tables))
        self.below = _layers(13, *below)
        self.register_buffer("pairs", torch.tril_indices(tables + 1, tables + 1, -1, device="cpu"))
        self.above = _layers(size + (tables + 1) * tables // 2, *above)

    def forward(self, numbers: Tensor, offsets: Tensor, *indices: Tensor) -> Tensor:
        first = self.below(numbers)
        bags = [bag(own, offsets[place]) for place, (bag, own) in enumerate(zip(self.bags, indices, strict=True))]
        together = torch.stack([first, *bags], 1)
        one, other = self.pairs.to(numbers.device)  # type: ignore[operator]
        products = torch.bmm(together, together.transpose(1, 2))[:, one, other]
        result: Tensor = self.above(torch.cat([first, products], 1)).sigmoid()
        return result


def _layers(*sizes: int) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(layer for one, other in pairs for layer in (nn.Linear(one, other), nn.ReLU())))


TABLES = 4


def _dlrm(tiny: bool) -> nn.Module:
    return Dlrm(TABLES, (16, 8), (16, 1)) if tiny else Dlrm(TABLES, (512, 256, 64, 16), (512, 256, 1))


def _clicks(tiny: bool, batch: int) -> tuple[Tensor, ...]:
    offsets = torch.arange(batch).expand(TABLES, -1).contiguous()
    return torch.randn(batch, 13), offsets, *(torch.randint(100, (batch,)) for _ in range(TABLES))


class Mmoe(nn.Module):
    """Experts that all tasks share, and for each task a gate over them and a tower."""

    def __init__(self, features: int, hidden: int, experts: int, tasks: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_layers(features, 2 * hidden, hidden) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(features, experts, bias=False) for _ in range(tasks))
        self.towers = nn.ModuleList(_layers(hidden, hidden // 2, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> Tensor:
        known = torch.stack([expert(x) for expert in self.experts], 1)
        chosen = [(gate(x).softmax(-1).unsqueeze(1) @ known).squeeze(1) for gate in self.gates]
        towers = zip(self.towers, chosen, strict=True)
        return torch.cat([tower(own).sigmoid() for tower, own in towers], -1)


def _mmoe(tiny: bool) -> nn.Module:
    return Mmoe(24, 16, 3, 2) if tiny else Mmoe(512, 128, 3, 2)


def _tokens(tiny: bool, count: int) -> tuple[Tensor, ...]:
    return deepseek_v32.example_inputs(_config(tiny, count), "cpu" if tiny else "meta", count)


def _config(tiny: bool, tokens: int) -> deepseek_v32.Config:
    return deepseek_v32.Config.tiny(tokens=tokens) if tiny else deepseek_v32.Config(tp=8, tokens=tokens)


def _v32(tiny: bool) -> nn.Module:
    return deepseek_v32.build(_config(tiny, 1), "cpu" if tiny else "meta")


MODELS: dict[str, DynamicModel] = {
    "bert, batch": DynamicModel(_bert, lambda tiny, size: _texts(tiny, size, 9 if tiny else 256), ((0, 0), (1, 0)), (2, 3, 6)),
    "bert, length": DynamicModel(_bert, lambda tiny, size: _texts(tiny, 2, size), ((0, 1), (1, 1)), (256, 9, 20)),
    "dlrm": DynamicModel(
        _dlrm, _clicks, ((0, 0), (1, 1), *((place, 0) for place in range(2, 2 + TABLES))), (2048, 5, 12)
    ),
    "mmoe": DynamicModel(
        _mmoe, lambda tiny, size: (torch.randn(size, 24 if tiny else 512),), ((0, 0),), (2048, 5, 12)
    ),
    "deepseek v3.2": DynamicModel(_v32, _tokens, tuple((place, 0) for place in range(4)), (16, 3, 7)),
}  # fmt: skip


def arguments(*names: str) -> Any:
    """Return the names of models, by default all, as parameters of a test."""
    import pytest

    return pytest.mark.parametrize("name", names or list(MODELS))
