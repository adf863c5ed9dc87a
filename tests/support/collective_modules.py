"""Hold modules with collectives, and a process group of one process that runs none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

FUNCTIONAL: Any = torch.ops._c10d_functional
wait: Any = FUNCTIONAL.wait_tensor
GROUP = "0"  # the name of the first group that a process makes
SMALL = {"min_gain": 0.0, "event_us": 0.0}


@contextlib.contextmanager
def fake_ranks(ranks: int = 2) -> Iterator[None]:
    """Initialize a process group of `ranks` ranks of which this process is the first, and whose collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def linear(width: int, features: int | None = None) -> nn.Linear:
    return nn.Linear(width, features or width, bias=False)


class TwoSums(nn.Module):
    """A reduced product beside another one, a second reduction behind both, and products that depend on none of it."""

    def __init__(self, width: int = 64, others: int = 5) -> None:
        super().__init__()
        self.a, self.b, self.c = (linear(width) for _ in range(3))
        self.others = nn.ModuleList(linear(width) for _ in range(others))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        reduced = FUNCTIONAL.all_reduce(self.a(x), "sum", GROUP)
        beside = torch.tanh(self.b(x))
        first = wait(reduced) + beside
        apart = [torch.sigmoid(other(x)) for other in self.others]
        return wait(FUNCTIONAL.all_reduce(self.c(first), "sum", GROUP)), first * 2, *apart


class EveryKind(nn.Module):
    """Each functional collective once, with waits in another order than the starts."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (linear(width) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, rows = self.a(x), x.shape[0] // 2
        reduced = FUNCTIONAL.all_reduce(x * 2 + 1, "sum", GROUP)
        gathered = FUNCTIONAL.all_gather_into_tensor_coalesced([self.b(x), self.c(x)], 2, GROUP)
        both = FUNCTIONAL.all_reduce_coalesced([a, a * 3], "sum", GROUP)
        scattered = FUNCTIONAL.reduce_scatter_tensor(self.d(x), "sum", 2, GROUP)
        pieces = FUNCTIONAL.reduce_scatter_tensor_coalesced([a, x], "sum", 2, GROUP)
        sent = FUNCTIONAL.broadcast(x, 0, GROUP)
        exchanged = FUNCTIONAL.all_to_all_single(a, [rows, rows], [rows, rows], GROUP)
        whole = FUNCTIONAL.all_gather_into_tensor(a, 2, GROUP)
        several = FUNCTIONAL.wait_tensors(pieces) if hasattr(FUNCTIONAL, "wait_tensors") else [wait(p) for p in pieces]
        return (
            wait(reduced) + 1, wait(gathered[1]) * 2, wait(gathered[0]) * 3, wait(both[0]) + 1, wait(both[1]) + 2,
            wait(scattered) * 2, wait(sent) * 2, wait(exchanged) * 2, wait(whole) + 1, several[0] + 1, several[1] + 2,
        )  # fmt: skip


class InPlace(nn.Module):
    """Collectives that write what they are given: a value, which Inductor finds out, and what goes into an input."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.c = (linear(width) for _ in range(3))

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        value = FUNCTIONAL.all_reduce(self.a(x), "sum", GROUP)
        sent = wait(FUNCTIONAL.broadcast(cache, 0, GROUP))
        cache.copy_(sent * 2)
        return wait(value) + self.b(cache), self.c(x) + self.c(x * 2).relu()


class OfViews(nn.Module):
    """Collectives of views: a transposed value and a slice, which Inductor copies, and two in place on one value."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (linear(width) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        transposed = wait(FUNCTIONAL.all_reduce(self.a(x).t(), "sum", GROUP))
        c, d = self.c(x), self.d(x)
        part = wait(FUNCTIONAL.all_reduce(c[:, 8:40], "max", GROUP))
        gathered = wait(FUNCTIONAL.all_gather_into_tensor(c.t(), 2, GROUP))
        once = wait(FUNCTIONAL.all_reduce(d.view(x.shape[0] * 2, -1), "sum", GROUP))
        twice = wait(FUNCTIONAL.all_reduce(once.view(d.shape), "sum", GROUP))
        return transposed * 2, self.b(x).relu(), part + 1, c * 2, gathered, twice + 1


class DecoderLayer(nn.Module):
    """A decoder layer of one rank: attention without its cache, and routed experts beside a shared one.

    The experts are products of a batch, each of all tokens, or, with `grouped`, products of groups of the tokens in order of
    their experts.
    """

    def __init__(self, width: int = 1024, hidden: int = 512, experts: int = 8, chosen: int = 2, grouped: bool = False) -> None:
        super().__init__()
        self.experts, self.chosen, self.grouped = experts, chosen, grouped
        self.q, self.k, self.v, self.o = (linear(width) for _ in range(4))
        self.router = linear(width, experts)
        self.shared_up, self.shared_gate, self.shared_down = linear(width, hidden), linear(width, hidden), linear(hidden, width)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, x.shape[-1:])
        mixed = torch.sigmoid(self.q(normed)) * self.v(normed) + self.k(normed)
        x = x + wait(FUNCTIONAL.all_reduce(self.o(mixed), "sum", GROUP))
        normed = F.rms_norm(x, x.shape[-1:])
        shared = self.shared_down(F.silu(self.shared_gate(normed)) * self.shared_up(normed))
        weights, places = self.router(normed).softmax(-1).topk(self.chosen, sorted=False)
        routed = self.in_groups(normed, weights, places) if self.grouped else self.in_batch(normed, weights, places)
        return x + wait(FUNCTIONAL.all_reduce(routed + shared, "sum", GROUP))

    def in_batch(self, x: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        each = torch.bmm(torch.relu(torch.bmm(x.expand(self.experts, *x.shape), self.up)), self.down)
        shares = torch.zeros(x.shape[0], self.experts, dtype=x.dtype, device=x.device).scatter(1, places, weights)
        return (each * shares.t().unsqueeze(-1)).sum(0)

    def in_groups(self, x: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        flat = places.reshape(-1)
        order = flat.argsort(stable=True)
        ends = (flat.unsqueeze(1) == torch.arange(self.experts, device=x.device)).sum(0).cumsum(0).to(torch.int32)
        tokens = x[order // self.chosen]
        hidden = torch.relu(torch._grouped_mm(tokens, self.up, offs=ends))
        each = torch._grouped_mm(hidden, self.down, offs=ends) * weights.reshape(-1)[order].unsqueeze(-1)
        return torch.zeros_like(each).index_copy(0, order, each).view(x.shape[0], self.chosen, -1).sum(1)
