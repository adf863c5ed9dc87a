"""The public DLRM (Naumov et al., arXiv 1906.00091), written here in torch alone, with few rows in its tables.

Sizes are those of the reference's runs on Criteo's data: `dlrm_s_criteo_kaggle.sh`, and MLPerf's on the terabyte. Tables have
fewer rows, of which no launch and no modelled time depends on the number.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Dynamic, Inputs, Made

DENSE, TABLES = 13, 26  # features of Criteo's data
# name -> layers below, with the size of an embedding as the last, and layers above, without the first
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "kaggle": ((512, 256, 64, 16), (512, 256, 1)),
    "mlperf": ((512, 256, 128), (1024, 1024, 512, 256, 1)),
}


def layers(sizes: tuple[int, ...], last: nn.Module) -> nn.Sequential:
    """Return linear layers of these sizes with ReLU between them, and `last` behind."""
    found: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        found += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*found[:-1], last)


class DLRM(nn.Module):
    """Layers for dense features, a bag of embeddings for each other feature, all their products, and layers above."""

    pairs: Tensor

    def __init__(self, rows: int, tables: int, below: tuple[int, ...], above: tuple[int, ...]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(rows, below[-1], mode="sum") for _ in range(tables))
        self.below = layers((DENSE, *below), nn.ReLU())
        self.register_buffer("pairs", torch.tril_indices(tables + 1, tables + 1, -1))
        self.above = layers((below[-1] + (tables + 1) * tables // 2, *above), nn.Sigmoid())

    def forward(self, dense: Tensor, offsets: Tensor, *indices: Tensor) -> Tensor:
        """Return the probability of a click for each sample; bag i of table k begins at `offsets[k, i]` of its indices."""
        first = self.below(dense)
        bags = [bag(own, offsets[number]) for number, (bag, own) in enumerate(zip(self.bags, indices, strict=True))]
        together = torch.stack([first, *bags], 1)
        products = torch.bmm(together, together.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        result: Tensor = self.above(torch.cat([first, products], 1))
        return result


def build(name: str, tiny: bool) -> Made:
    """Return a DLRM and a batch with one index in each bag, as Criteo's data has it."""
    below, above = ((16, 8), (16, 1)) if tiny else SIZES[name]
    batch, rows, tables = (4, 10, 4) if tiny else (2048, 2000, TABLES)
    indices = [torch.randint(0, rows, (batch,)) for _ in range(tables)]
    offsets = torch.arange(batch).expand(tables, -1).contiguous()
    return DLRM(rows, tables, below, above), (torch.randn(batch, DENSE), offsets, *indices)


def resized(inputs: Inputs, batch: int) -> Inputs:
    """Return a batch of another size, with one index in each bag."""
    dense, offsets, *indices = inputs
    kept = torch.arange(batch) % len(dense)
    return dense[kept], torch.arange(batch).expand(len(offsets), -1).contiguous(), *(own[kept] for own in indices)


# Every input has a row, or a bag, for each sample: with fewer marks the model itself fixes the batch.
BATCH = Dynamic(((0, 0), (1, 1), *((2 + table, 0) for table in range(TABLES))), (3, 9), resized)
CASES = [
    *(Case(f"dlrm-{name}-few-rows", "torch", partial(build, name)) for name in SIZES),
    Case("dlrm-kaggle-dynamic-batch", "torch", partial(build, "kaggle"), dynamic=BATCH),
]
