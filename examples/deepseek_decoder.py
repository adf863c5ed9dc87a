"""Whole decoder layers of DeepSeek V3.2 and V4 at decode, one rank's share under tensor parallelism, in plain PyTorch.

A layer is the attention of `deepseek_v32.py` or `deepseek_v4.py`, then a dense MLP or the mixture of experts of
`deepseek_experts.py`, each behind a norm and on the residual path of `deepseek_residual.py`. What attention and experts return
is summed over the process group by a functional all-reduce; without a group each rank's share stands for the sum.

Left out are the embedding and the vocabulary, the layers for the prediction of further tokens, V4's routing of the first three
layers by token ids, and what the attention examples leave out. With fp8 the products of V3.2's attention, shared expert and
dense MLP are fp8 as in `deepseek_v32.py`; routed experts stay in bf16, because `torch._scaled_grouped_mm` has no scales for
blocks of 128 (torch 2.15.0, `_meta_registrations.py`, `_meta_grouped_mm_common`: float32 scales are one a row). So an FP8 layer
reads twice the bytes for its experts that an engine's does. V4 is bf16 only. The shared expert is split over the ranks as in
engines; the public inference code of V4 has all of it on each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import deepseek_v4 as v4
import deepseek_v32 as v32
import torch
from deepseek_experts import ExpertsConfig, GatedMLP, MixtureOfExperts
from deepseek_residual import Carried, Collapse, HyperConnections, Sum
from deepseek_v32 import EPSILON, Linear, Operand, RMSNorm, generator_on
from torch import Tensor, nn

AttentionConfig = v32.Config | v4.Config

# The parameters that ranks have a share of, by how their names end, and the dimension that is divided. What ends with
# "gate_up" has two halves there, each of which is divided. All other parameters are the same on all ranks.
DIVIDED = {
    "attention.q_b_proj.weight": 0, "attention.w_uk": 0, "attention.w_uv": 0, "attention.o_proj.weight": 1,
    "attention.wq_b.weight": 0, "attention.sink": 0, "attention.wo_a": 0, "attention.wo_b.weight": 1,
    "experts.gate_up": 1, "experts.down": 2, "shared.gate_up.weight": 0, "shared.down.weight": 1,
    "mlp.gate_up.weight": 0, "mlp.down.weight": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The sizes of the decoder: the attention of each layer, and what layers have in common."""

    attention: tuple[AttentionConfig, ...]
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    dense_layers: int = 0  # how many of the first layers have a dense MLP
    dense_intermediate: int = 18432
    copies: int = 1  # of the hidden state; several are mixed as in V4
    iterations: int = 20  # of Sinkhorn
    head: bool = False  # whether a norm follows, as before a vocabulary

    def __post_init__(self) -> None:
        if not self.attention:
            raise ValueError("a decoder has at least one layer")
        if len({(each.hidden, each.tokens, each.tp, each.dtype) for each in self.attention}) > 1:
            raise ValueError("layers have to agree in hidden, tokens, tp and dtype")
        for name, size in (("intermediate", self.experts.intermediate), ("dense_intermediate", self.dense_intermediate)):
            if size % self.first.tp:
                raise ValueError(f"{name} ({size}) must be a multiple of tp ({self.first.tp})")

    @property
    def first(self) -> AttentionConfig:
        """Return the sizes of the first layer's attention."""
        return self.attention[0]

    @classmethod
    def v32(
        cls, layers: int = 1, products: Literal["grouped", "batched"] = "grouped", experts: int = 256, **changes: Any
    ) -> Config:
        """Return so many layers of V3.2 at TP 8; `changes` replace single fields of the attention."""
        attention = v32.Config(**{"tp": 8, **changes})
        return cls((attention,) * layers, ExpertsConfig(experts=experts, products=products))

    @classmethod
    def v4_flash(
        cls, kinds: tuple[v4.Kind, ...] = ("csa",), products: Literal["grouped", "batched"] = "grouped", experts: int = 256,
        **changes: Any,
    ) -> Config:  # fmt: skip
        """Return layers of V4-Flash of these kinds at TP 8; `changes` replace single fields of the attention."""
        attention = tuple(v4.Config.flash(**{"tp": 8, **changes, "kind": kind}) for kind in kinds)
        routed = ExpertsConfig(experts, 6, 1, 1, 2048, "sqrtsoftplus", 1.5, 10.0, products)
        return cls(attention, routed, copies=4)

    @classmethod
    def tiny(cls, model: str = "v32", layers: int = 2, kinds: tuple[v4.Kind, ...] = ("csa", "hca"), **changes: Any) -> Config:
        """Return sizes small enough for a CPU, of "v32" or "v4"; `changes` replace single fields of the attention."""
        if model == "v32":
            routed = ExpertsConfig(8, 2, 4, 2, 32)
            return cls((v32.Config.tiny(**changes),) * layers, routed, dense_intermediate=64)
        attention = tuple(v4.Config.tiny(**{**changes, "kind": kinds[layer % len(kinds)]}) for layer in range(layers))
        routed = ExpertsConfig(8, 2, 1, 1, 32, "sqrtsoftplus", 1.5, 10.0)
        return cls(attention, routed, dense_intermediate=64, copies=4, iterations=3)


def all_reduce(x: Tensor, group: str | None) -> Tensor:
    """Return the sum of `x` over the process group of this name, by the functional collective; `x` itself for None."""
    if group is None:
        return x
    return torch.ops._c10d_functional.wait_tensor(torch.ops._c10d_functional.all_reduce(x, "sum", group))


class DecoderLayer(nn.Module):
    """A layer of one rank, in two halves that end with an all-reduce each."""

    def __init__(self, config: Config, layer: int, group: str | None) -> None:
        super().__init__()
        attention = config.attention[layer]
        hidden, tp, dtype = attention.hidden, attention.tp, attention.dtype
        self.group = group
        self.attention: nn.Module
        linear: Callable[[int, int], Linear] = partial(Linear, dtype=dtype)
        operand: Callable[[Tensor], Operand] = _unchanged
        if isinstance(attention, v32.Config):
            self.attention = v32.SparseAttention(attention)
            linear, operand = partial(v32.linear, attention), partial(_operand, attention)
        else:
            self.attention = v4.Attention(attention)
        self.attention_residual, self.mlp_residual = (self._residual(config) for _ in range(2))
        self.attention_norm, self.mlp_norm = (Norm(hidden, eps=EPSILON, dtype=dtype) for _ in range(2))
        limit, experts = config.experts.limit, config.experts
        if layer < config.dense_layers:
            self.mlp: nn.Module = GatedMLP(hidden, config.dense_intermediate // tp, limit, linear, operand)
        else:
            shared = GatedMLP(hidden, experts.intermediate // tp, limit, linear, operand)
            self.mlp = MixtureOfExperts(experts, hidden, tp, dtype, shared)

    @staticmethod
    def _residual(config: Config) -> nn.Module:
        return Sum() if config.copies == 1 else HyperConnections(config.first.hidden, config.copies, config.iterations)

    def forward(self, carried: Carried, positions: Tensor, *caches: Tensor) -> Carried:
        """Return what passes on to the next layer. `caches` are the attention's, written in place."""
        return self.second_half(self.first_half(carried, positions, *caches))

    def first_half(self, carried: Carried, positions: Tensor, *caches: Tensor) -> Carried:
        """Return what passes from attention to experts."""
        x, held = self.before_attention(carried)
        return self.summed(self.attention(x, positions, *caches)), *held

    def second_half(self, carried: Carried) -> Carried:
        """Return what passes from the experts to the next layer."""
        x, held = self.before_mlp(carried)
        return self.summed(self.mlp(x)), *held

    def before_attention(self, carried: Carried) -> tuple[Tensor, Carried]:
        """Return the attention's input `[T, hidden]`, and what is carried beside it."""
        x, held = self.attention_residual(carried)
        return self.attention_norm(x), held

    def before_mlp(self, carried: Carried) -> tuple[Tensor, Carried]:
        """Return the experts' input `[T, hidden]`, and what is carried beside it."""
        x, held = self.mlp_residual(carried)
        return self.mlp_norm(x), held

    def summed(self, x: Tensor) -> Tensor:
        """Return the sum of all ranks' shares."""
        return all_reduce(x, self.group)


class Norm(RMSNorm):
    """The same norm, written out.

    If several kernels of Inductor's read a norm, each computes it anew from the sum of squares. Of `rms_norm` and of a mean, of
    which Inductor keeps the sum, no value of the graph stands for it, and all of these kernels would be one unit of a plan.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        factor = (wide.square().sum(dim=-1, keepdim=True) / x.shape[-1] + EPSILON).rsqrt()
        return (wide * factor * self.weight.float()).to(x.dtype)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _operand(config: v32.Config, x: Tensor) -> Operand:
    """Return what products take of an activation, as `v32.operand` does, with its rows of zeros selected and not padded.

    Inductor of torch 2.15 makes a concatenation of a padded value that others read too. Its rows of zeros are a kernel, which
    it fuses with any other, and so all between that one and the value would be one unit of a plan.
    """
    if not config.fp8 or config.fp8_scales != "block":
        return v32.operand(config, x)
    tokens = x.shape[0]
    row = torch.arange(tokens + -tokens % v32.ROWS, device=x.device)
    filled = torch.where((row < tokens).unsqueeze(-1), x[row.clamp(max=tokens - 1)], 0.0)
    return v32.BlockFloat8Linear.operand(filled)._replace(tokens=tokens)


class Decoder(nn.Module):
    """Decoder layers of one rank. What passes between layers is a residual path of `deepseek_residual.py`."""

    def __init__(self, config: Config, group: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config, layer, group) for layer in range(len(config.attention)))
        first = config.first
        self.collapse: Collapse | None = None
        self.norm: Norm | None = None
        if config.head and config.copies > 1:
            self.collapse = Collapse(first.hidden, config.copies)
        if config.head:
            self.norm = Norm(first.hidden, eps=EPSILON, dtype=first.dtype)

    def forward(self, hidden: Tensor, positions: Tensor, *caches: Tensor) -> Tensor:
        """Return the hidden state after the last layer, for one new token of each of T sequences.

        With a head `hidden` and the result are `[T, hidden]`; without, as in the middle of a model, they are what the residual
        path holds: `[T, hidden]`, or `[T, copies, hidden]`. `positions` is int64 `[T]`, `caches` those of all layers in order.
        """
        carried = self.start(hidden)
        for layer, own in zip(self.layers, self.caches_by_layer(caches), strict=True):
            carried = layer(carried, positions, *own)
        return self.finish(carried)

    def start(self, hidden: Tensor) -> Carried:
        """Return what passes to the first layer."""
        if self.config.head and self.config.copies > 1:
            return (hidden.unsqueeze(1).expand(-1, self.config.copies, -1),)
        return (hidden,)

    def finish(self, carried: Carried) -> Tensor:
        """Return the decoder's result from what the last layer passes on."""
        ended = (Sum if self.config.copies == 1 else HyperConnections).finish(carried)
        if self.collapse is not None:
            ended = self.collapse(ended)
        return ended if self.norm is None else self.norm(ended)

    def caches_by_layer(self, caches: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Return each layer's share of the caches."""
        found, start = [], 0
        for attention in self.config.attention:
            count = cache_count(attention)
            found.append(caches[start : start + count])
            start += count
        return found


def cache_count(attention: AttentionConfig) -> int:
    """Return how many tensors a layer's caches are."""
    return 2 if isinstance(attention, v32.Config) else {"csa": 5, "hca": 3, "sliding": 1}[attention.kind]


@torch.no_grad()
def build(config: Config, device: torch.device | str, seed: int = 0, rank: int = 0, group: str | None = None) -> Decoder:
    """Return a rank's decoder with random weights, N(0, 1 / fan_in) each; on "meta" it has shapes only.

    What is not divided between ranks is the same for each `rank`.
    """
    device = torch.device(device)
    with device:
        decoder = Decoder(config, group)
    if device.type != "meta":
        _initialize(decoder, device, seed, seed + 1000 * (rank + 1))
    return decoder.requires_grad_(False).eval()


def _initialize(decoder: Decoder, device: torch.device, seed: int, own_seed: int) -> None:
    """Draw all weights but those of norms: what is divided between ranks from `own_seed`, all else from `seed`."""
    common, own = (generator_on(device, each) for each in (seed, own_seed))
    for name, parameter in decoder.named_parameters():
        if name.endswith((".weight_scale", "norm.weight", "norm.bias")):
            continue
        generator = common if divided(name) is None else own
        values = torch.randn(parameter.shape, generator=generator, dtype=decoder.config.first.dtype, device=device)
        values *= _deviation(name, parameter)
        module = decoder.get_submodule(name.rpartition(".")[0])
        if isinstance(module, Linear):
            module.load(values)
        else:
            parameter.copy_(values)


def divided(name: str) -> int | None:
    """Return the dimension of a parameter that is divided between ranks; None if each has all of it."""
    return next((dim for suffix, dim in DIVIDED.items() if name.endswith(f".{suffix}")), None)


def _deviation(name: str, parameter: Tensor) -> float:
    """Return the standard deviation of a parameter's random values: by how many numbers are summed with it."""
    if name.endswith("router.bias"):
        return 0.02  # little beside the scores, so that tokens differ in their experts
    if parameter.dim() == 1:
        return 1.0
    # The latent is expanded by w_uk and w_uv before they are absorbed, so its size counts for both.
    summed = max(parameter.shape[1:]) if name.endswith((".w_uk", ".w_uv")) else parameter.shape[-1]
    return float((parameter.shape[1] if name.endswith(".wo_a") else summed) ** -0.5)


def example_inputs(config: Config, device: torch.device | str, seed: int = 0, steps: int = 1) -> tuple[Tensor, ...]:
    """Return `(hidden, positions, *caches)` as the decoder takes them, random, with room for `steps` tokens."""
    device, first = torch.device(device), config.first
    options: dict[str, Any] = {"generator": generator_on(device, seed), "device": device}
    shape = (first.tokens, first.hidden) if config.head or config.copies == 1 else (first.tokens, config.copies, first.hidden)
    hidden = torch.randn(shape, dtype=first.dtype, **options)
    positions = torch.randint(min(each.context for each in config.attention) - steps + 1, (first.tokens,), **options)
    caches: list[Tensor] = []
    for layer, attention in enumerate(config.attention):
        caches += _layer_inputs(attention, device, seed + 100 * layer)[2:]
    return hidden, positions, *caches


def _layer_inputs(attention: AttentionConfig, device: torch.device, seed: int) -> tuple[Tensor, ...]:
    if isinstance(attention, v32.Config):
        return v32.example_inputs(attention, device, seed)
    return v4.example_inputs(attention, device, seed)
