"""The residual paths of DeepSeek's decoder layers: a sum in V3.2, several mixed copies in V4.

V4 keeps copies of the hidden state. Before attention and before the experts they are collapsed into one; afterwards the output
is added to each copy, and the copies are mixed by a matrix that Sinkhorn's iteration makes doubly stochastic. The formulas are
those of DeepSeek-V4-Flash's public inference code (`inference/model.py`, `hc_pre`, `hc_post` and `hc_head`;
`inference/kernel.py`, `hc_split_sinkhorn`), which follow "mHC: Manifold-Constrained Hyper-Connections" (arXiv 2512.24880).

What a sublayer returns is added when the next one begins. So nothing of a layer lies between two all-reduces but what depends
on the first, and a layer can be compiled in two pieces, cut at the all-reduces, without a kernel that would be one otherwise.
"""

from __future__ import annotations

import torch
from deepseek_v32 import EPSILON
from hyper_connections_kernel import mixing_weights_on_cuda
from torch import Tensor, nn

Carried = tuple[Tensor, ...]  # what passes from a sublayer to the next: its output and what the residual path holds


class Sum(nn.Module):
    """The residual path of V3.2. It carries `(output, residual)`, at the start only `(residual,)`, each `[T, hidden]`."""

    def forward(self, carried: Carried) -> tuple[Tensor, Carried]:
        """Return what the next sublayer reads, and what has to be carried beside its output."""
        residual = self.finish(carried)
        return residual, (residual,)

    @staticmethod
    def finish(carried: Carried) -> Tensor:
        """Return the residual `[T, hidden]` with the last output added."""
        return carried[0] if len(carried) == 1 else carried[0] + carried[1]


class HyperConnections(nn.Module):
    """The residual path of V4 before one sublayer.

    It carries `(output, copies, post, mix)`: `[T, hidden]`, `[T, n, hidden]`, fp32 `[T, n]` and fp32 `[T, n, n]`; at the start
    only `(copies,)`.
    """

    def __init__(self, hidden: int, copies: int, iterations: int) -> None:
        super().__init__()
        self.copies, self.iterations = copies, iterations
        count = (2 + copies) * copies
        # In fp32, as in the checkpoint.
        self.weight = nn.Parameter(torch.empty(count, copies * hidden), requires_grad=False)
        self.base = nn.Parameter(torch.empty(count), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(3), requires_grad=False)

    def forward(self, carried: Carried) -> tuple[Tensor, Carried]:
        """Return what the next sublayer reads, and what has to be carried beside its output."""
        copies = self.finish(carried)
        weights = mixing_weights_on_cuda if copies.device.type == "cuda" else mixing_weights
        before, after, mix = weights(*projected(copies, self.weight), self.base, self.scale, self.iterations, EPSILON)
        return collapsed(copies, before), (copies, after, mix)

    @staticmethod
    def finish(carried: Carried) -> Tensor:
        """Return the copies `[T, n, hidden]`, mixed and with the last output added to each."""
        if len(carried) == 1:
            return carried[0]
        output, copies, after, mix = carried
        mixed = (mix.unsqueeze(-1) * copies.float().unsqueeze(2)).sum(dim=1)
        return (after.unsqueeze(-1) * output.float().unsqueeze(1) + mixed).to(copies.dtype)


class Collapse(nn.Module):
    """The end of V4's residual path: one weighted sum of the copies, without mixing."""

    def __init__(self, hidden: int, copies: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(copies, copies * hidden), requires_grad=False)
        self.base = nn.Parameter(torch.empty(copies), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(1), requires_grad=False)

    def forward(self, copies: Tensor) -> Tensor:
        """Return `[T, hidden]` for copies `[T, n, hidden]`."""
        products, squares = projected(copies, self.weight)
        return collapsed(copies, (products * _factor(squares, EPSILON) * self.scale + self.base).sigmoid() + EPSILON)


def projected(copies: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product of a token's copies with `weight`, and the mean square of each copy: fp32 `[T, rows]`, `[T, n]`."""
    wide = copies.float()
    # Of a mean Inductor keeps the sum, and over all copies at once it would sum in two kernels: for neither buffer a value of
    # the graph would stand.
    return nn.functional.linear(wide.flatten(1), weight), wide.square().sum(dim=-1) / wide.shape[-1]


def collapsed(copies: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the copies `[T, n, hidden]` weighted by fp32 `[T, n]`."""
    return (weights.unsqueeze(-1) * copies.float()).sum(dim=1).to(copies.dtype)


def mixing_weights(
    products: Tensor, squares: Tensor, base: Tensor, scale: Tensor, iterations: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of the copies before a sublayer `[T, n]`, of its output after it `[T, n]`, and the mix `[T, n, n]`.

    `products` is fp32 `[T, (2 + n) * n]`, not normalized, `squares` fp32 `[T, n]` the mean square of each copy; all copies of a
    token are normalized together. The mix is a softmax of rows, then columns and rows in turns, so both sum to about one.
    """
    n = squares.shape[1]
    before, after, mix = (products * _factor(squares, epsilon)).split((n, n, n * n), dim=-1)
    before = (before * scale[0] + base[:n]).sigmoid() + epsilon
    after = 2 * (after * scale[1] + base[n : 2 * n]).sigmoid()
    mix = (mix * scale[2] + base[2 * n :]).unflatten(-1, (n, n)).softmax(dim=-1) + epsilon
    mix = mix / (mix.sum(dim=1, keepdim=True) + epsilon)
    for _ in range(iterations - 1):
        mix = mix / (mix.sum(dim=2, keepdim=True) + epsilon)
        mix = mix / (mix.sum(dim=1, keepdim=True) + epsilon)
    return before, after, mix


def _factor(squares: Tensor, epsilon: float) -> Tensor:
    """Return what normalizes all copies of a token together, from the mean square of each."""
    return (squares.mean(dim=-1, keepdim=True) + epsilon).rsqrt()
