"""DeepSeek's mixture of experts at decode, in plain PyTorch with static shapes: router, routed experts, shared expert.

The router is that of the public inference code of V3.2 (`inference/model.py`, `Gate`): the sigmoid of a product in fp32, a bias
that decides which experts are taken but not their weights, first the best groups of experts, then the best experts in them. V4
takes the root of a softplus, has no groups, and clamps what its experts multiply.

Routed experts are one product over the rows of all tokens, sorted by expert (`torch._grouped_mm`), or one batched product over
copies of the experts that were taken. The first costs a gather of T x topk rows, one of as many outputs, and three small
kernels that sort the rows by counting, in (T x topk)^2 comparisons; the second copies all weights that it reads, so it is for
comparison, and for few tokens. Each rank has a share of the intermediate size of every expert, so the sum over ranks is one
all-reduce, as in engines' tensor parallelism.

Inductor's own kernels count where `torch.sort` and `torch.topk` could be called. `torch.topk` launches a kernel of one block a
row, which takes as long for 8 numbers as for thousands. `torch.sort` of few numbers is a kernel of Inductor's that keeps places
in 16 bits, for which no value of the graph stands, so all kernels that read them would be one unit of a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from deepseek_v32 import Linear, Operand
from torch import Tensor, nn


@dataclass(frozen=True)
class ExpertsConfig:
    """The sizes of the mixture of experts. `intermediate` counts all ranks."""

    experts: int = 256
    topk: int = 8
    groups: int = 8
    topk_groups: int = 4
    intermediate: int = 2048
    scores: Literal["sigmoid", "sqrtsoftplus"] = "sigmoid"
    scale: float = 2.5
    limit: float | None = None  # of what an expert multiplies
    products: Literal["grouped", "batched"] = "grouped"

    def __post_init__(self) -> None:
        if self.experts % self.groups or not 1 <= self.topk_groups <= self.groups:
            raise ValueError(f"{self.experts} experts are no {self.groups} groups, of which {self.topk_groups} are taken")
        if not 1 <= self.topk <= self.experts // self.groups * self.topk_groups:
            raise ValueError(
                f"{self.topk} experts can't be taken of {self.topk_groups} groups of {self.experts // self.groups}"
            )
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError("a group needs two experts, whose scores decide")


def activated(gate_up: Tensor, limit: float | None) -> Tensor:
    """Return SiLU of the first half of the columns times the second half, each clamped to `limit` if there is one."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (nn.functional.silu(gate) * up).to(gate_up.dtype)


def ranks(values: Tensor) -> Tensor:
    """Return the place int64 that each of `values` `[..., n]` has in ascending order; equal ones keep their order."""
    number = torch.arange(values.shape[-1], device=values.device)
    own, other = values.unsqueeze(-1), values.unsqueeze(-2)
    before = (other < own) | ((other == own) & (number < number.unsqueeze(-1)))
    return before.sum(dim=-1)


class GatedMLP(nn.Module):
    """A gated MLP of one rank: the shared expert, or all of a dense layer's."""

    def __init__(
        self, hidden: int, intermediate: int, limit: float | None, linear: Callable[[int, int], Linear],
        operand: Callable[[Tensor], Operand],
    ) -> None:  # fmt: skip
        super().__init__()
        self.limit, self.operand = limit, operand
        self.gate_up = linear(hidden, 2 * intermediate)
        self.down = linear(intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's share `[T, hidden]` of the sum."""
        return self.down(self.operand(activated(self.gate_up(self.operand(x)), self.limit)))


class Router(nn.Module):
    """The module that takes `topk` experts for each token, with weights."""

    def __init__(self, config: ExpertsConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        # In fp32, in which the product is: kept narrower, the weight would be widened in each call.
        self.weight = nn.Parameter(torch.empty(config.experts, hidden), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(config.experts), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights fp32 `[T, topk]` and experts int64 `[T, topk]`, in no particular order."""
        config = self.config
        logits = nn.functional.linear(x.float(), self.weight)
        scores = logits.sigmoid() if config.scores == "sigmoid" else nn.functional.softplus(logits).sqrt()
        taken = self._allowed(scores + self.bias).topk(config.topk, dim=-1, sorted=False).indices
        weights = scores.gather(1, taken)
        return weights / weights.sum(dim=-1, keepdim=True) * config.scale, taken

    def _allowed(self, scores: Tensor) -> Tensor:
        """Return the scores, minus infinity outside of each token's best groups."""
        config = self.config
        if config.groups == 1:
            return scores
        grouped = scores.unflatten(1, (config.groups, -1))
        best, place = grouped.max(dim=-1, keepdim=True)
        member = torch.arange(grouped.shape[-1], device=scores.device)
        second = grouped.masked_fill(member == place, -torch.inf).amax(dim=-1)
        better = ranks(-(best.squeeze(-1) + second))
        return grouped.masked_fill(better.unsqueeze(-1) >= config.topk_groups, -torch.inf).flatten(1)


class RoutedExperts(nn.Module):
    """The share of one rank in all routed experts, in one dtype."""

    def __init__(self, config: ExpertsConfig, hidden: int, tp: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        count, intermediate = config.experts, config.intermediate // tp
        self.gate_up = nn.Parameter(torch.empty(count, 2 * intermediate, hidden, dtype=dtype), requires_grad=False)
        self.down = nn.Parameter(torch.empty(count, hidden, intermediate, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Return this rank's share fp32 `[T, hidden]` of the weighted sum. `weights` and `experts` are `[T, topk]`."""
        made = self._grouped(x, experts) if self.config.products == "grouped" else self._batched(x, experts)
        return (made.unflatten(0, experts.shape).float() * weights.unsqueeze(-1)).sum(dim=1)

    def _grouped(self, x: Tensor, experts: Tensor) -> Tensor:
        taken = experts.flatten()
        place = ranks(taken)
        number = torch.arange(max(taken.shape[0], self.config.experts), device=x.device)
        # The row that is at each place, and where the rows of each expert end.
        row = (number[: taken.shape[0]] * (place == number[: taken.shape[0]].unsqueeze(-1))).sum(dim=-1)
        ends = (taken <= number[: self.config.experts].unsqueeze(-1)).sum(dim=-1, dtype=torch.int32)
        gate_up, down = self.gate_up.transpose(1, 2), self.down.transpose(1, 2)
        inner = activated(torch._grouped_mm(x[row // self.config.topk], gate_up, offs=ends), self.config.limit)
        return torch._grouped_mm(inner, down, offs=ends)[place]

    def _batched(self, x: Tensor, experts: Tensor) -> Tensor:
        taken, rows = experts.flatten(), x.repeat_interleave(self.config.topk, dim=0).unsqueeze(-1)
        inner = activated(torch.bmm(self.gate_up[taken], rows).squeeze(-1), self.config.limit)
        return torch.bmm(self.down[taken], inner.unsqueeze(-1)).squeeze(-1)


class MixtureOfExperts(nn.Module):
    """The router, the routed experts and the shared expert of one rank."""

    def __init__(self, config: ExpertsConfig, hidden: int, tp: int, dtype: torch.dtype, shared: GatedMLP) -> None:
        super().__init__()
        self.router = Router(config, hidden)
        self.experts = RoutedExperts(config, hidden, tp, dtype)
        self.shared = shared

    def routed(self, x: Tensor) -> Tensor:
        """Return this rank's share fp32 `[T, hidden]` of the routed experts' sum."""
        return self.experts(x, *self.router(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's share `[T, hidden]` of the sum over all experts."""
        return self.joined(self.routed(x), self.shared(x))

    @staticmethod
    def joined(routed: Tensor, shared: Tensor) -> Tensor:
        """Return the sum of both in the dtype of `shared`.

        It is made in fp32, as in the public inference code. Added in bf16, Inductor would fold it into the shared expert's last
        product, which then could not begin before the routed experts end.
        """
        return (routed + shared.float()).to(shared.dtype)
