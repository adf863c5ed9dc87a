"""Recurrent layers of torch itself, and modules of its own with branches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Made


def recurrent(kind: str, layers: int, both_ways: bool, tiny: bool) -> Made:
    """Return a recurrent layer and a batch of sequences."""
    size, length = (16, 4) if tiny else (512, 8)
    model: nn.Module = getattr(nn, kind)(size, size, layers, batch_first=True, bidirectional=both_ways)
    return model, (torch.randn(4, length, size),)


class TwoEncoders(nn.Module):
    """Two recurrent layers over two sequences that meet in a linear one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(size, size, batch_first=True), nn.GRU(size, size, batch_first=True)
        self.out = nn.Linear(2 * size, size)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return what both last states make."""
        last = [layer(values)[0][:, -1] for layer, values in ((self.first, one), (self.second, other))]
        result: Tensor = self.out(torch.cat(last, -1))
        return result


def two_encoders(tiny: bool) -> Made:
    """Return two recurrent encoders."""
    size, length = (16, 4) if tiny else (512, 8)
    return TwoEncoders(size), (torch.randn(4, length, size), torch.randn(4, length, size))


def transformer(tiny: bool) -> Made:
    """Return torch's own transformer, encoder and decoder."""
    size = 32 if tiny else 512
    model = nn.Transformer(size, 4, 2, 2, 4 * size, batch_first=True)
    return model, (torch.randn(2, 8 if tiny else 128, size), torch.randn(2, 6 if tiny else 32, size))


BUILDS: dict[str, Callable[[bool], Made]] = {
    "lstm": partial(recurrent, "LSTM", 1, False),
    "lstm-both-ways": partial(recurrent, "LSTM", 2, True),
    "gru-both-ways": partial(recurrent, "GRU", 1, True),
    "rnn-two-layers": partial(recurrent, "RNN", 2, False),
    "two-gru": two_encoders,
    "transformer": transformer,
}
CASES = [Case(f"torch-{name}", "torch", build, quick=name == "transformer") for name, build in BUILDS.items()]
