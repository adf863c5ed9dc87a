"""The products of DeepSeek's attention layers for `bench_few_rows.py`: their shapes, operands and results in float64."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import deepseek_v4
import deepseek_v32
import torch
from deepseek_v32 import BLOCK, BlockFloat8Linear, Float8Linear, Linear, Operand, Quantized
from torch import Tensor, nn

from graphstreams.kernels.few_rows import product_of, program, run
from graphstreams.kernels.few_rows_forms import Form, Product

Shape = tuple[int, int]  # K and columns

KINDS = ("bfloat16", "float16", "float8-token", "float8-block")
OPERANDS = ("x", "w", "bias", "scale_x", "scale_w")
CACHES = 3  # times the L2 cache that the copies of a weight fill, so that each has to come from memory
COPIES_LIMIT = 400

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "v32": lambda tp: deepseek_v32.build(deepseek_v32.Config(tp=tp), "meta"),
    "v32-fp8": lambda tp: deepseek_v32.build(deepseek_v32.Config(tp=tp, fp8=True), "meta"),
    "v4-flash": lambda tp: deepseek_v4.build(deepseek_v4.Config.flash(tp=tp), "meta"),
    "v4-pro": lambda tp: deepseek_v4.build(deepseek_v4.Config.pro(tp=tp), "meta"),
}


def shapes(models: Sequence[str], parallel: Sequence[int]) -> dict[Shape, list[str]]:
    """Return the shapes of the layers' products with a weight, and for each which products have it.

    Products of batches, such as those with the absorbed weights, are not among them.
    """
    found: dict[Shape, list[str]] = defaultdict(list)
    for model in models:
        for tp in parallel:
            for name, module in LAYERS[model](tp).named_modules():
                if isinstance(module, Linear):
                    columns, depth = module.weight.shape
                    found[depth, columns].append(f"{model} tp {tp} {name}")
    return dict(found)


def shape_of(text: str) -> Shape:
    """Return the shape that a text such as 7168x2112 names: K and columns. Raises ValueError for another text."""
    depth, _, columns = text.partition("x")
    return int(depth), int(columns)


def layer_of(kind: str, depth: int, columns: int) -> Linear:
    """Return a product of the DeepSeek example with a random weight, on the current device."""
    if kind == "float8-token":
        layer: Linear = Float8Linear(depth, columns)
    elif kind == "float8-block":
        layer = BlockFloat8Linear(depth, columns)
    else:
        layer = Linear(depth, columns, getattr(torch, kind))
    layer.load(torch.randn(columns, depth) * depth**-0.5)
    return layer


@dataclass(frozen=True)
class Case:
    """A product of `rows` rows whose weight has copies enough that none is in the cache when its turn comes."""

    rows: int
    layers: tuple[Linear, ...]
    operand: Operand

    @property
    def bytes_moved(self) -> int:
        """Return the bytes that one product has to read and to write."""
        x, w = self._operands(0)[:2]
        scales = sum(each.numel() * each.element_size() for each in self._operands(0)[3:5] if each is not None)
        read = sum(each.numel() * each.element_size() for each in (x, w))
        return read + scales + self.rows * w.shape[1] * 2

    @property
    def product(self) -> Product:
        """Return the product as the kernels know it."""
        return product_of(*self._operands(0))

    def torchs(self, index: int) -> Tensor:
        """Return the product with a copy of the weight, by torch: cuBLAS on a GPU."""
        result: Tensor = self.layers[index](self.operand)
        return result

    def ours(self, form: Form) -> Callable[[int], Tensor]:
        """Return what computes the product with a copy of the weight by a form. Raises ValueError if the form can't."""
        work = program(self.product, form)
        operands = [dict(zip(OPERANDS, self._operands(index), strict=True)) for index in range(len(self.layers))]
        return lambda index: run(work, operands[index])

    def expected(self) -> Tensor:
        """Return the product in float64."""
        x, w, _, scale_x, scale_w = self._operands(0)
        if scale_x is None or scale_w is None:
            return x.double() @ w.double()
        if isinstance(self.layers[0], BlockFloat8Linear):
            wide = x.double() * scale_x.double().repeat_interleave(BLOCK, 1)
            return wide @ self.layers[0].expanded().double().t()
        return (x.double() * scale_x.double()) @ (w.double() * scale_w.double())

    def _operands(self, index: int) -> tuple[Tensor, Tensor, None, Tensor | None, Tensor | None]:
        layer = self.layers[index]
        if not isinstance(self.operand, Quantized):
            return self.operand, layer.weight.t(), None, None, None
        scale_w: Any = layer.weight_scale
        scale_w = scale_w.t() if isinstance(layer, BlockFloat8Linear) else scale_w
        return self.operand.values[: self.rows], layer.weight.t(), None, self.operand.scale[: self.rows], scale_w


def case_of(kind: str, rows: int, layers: Sequence[Linear]) -> Case:
    """Return a product of random rows with weights of a kind, on the current device."""
    x = torch.randn(rows, layers[0].weight.shape[1])
    if isinstance(layers[0], (Float8Linear, BlockFloat8Linear)):
        return Case(rows, tuple(layers), layers[0].operand(x.bfloat16()))
    return Case(rows, tuple(layers), x.to(getattr(torch, kind)))


def copies_of(layer: Linear, l2: int, read: int | None = None) -> list[Linear]:
    """Return at least two copies of a product, whose weights fill a cache of `l2` bytes several times.

    `read` is how many bytes of a weight are read at least, if that is not the whole weight.
    """
    weight = layer.weight.numel() * layer.weight.element_size()
    count = min(max(2, -(-CACHES * l2 // min(weight, read or weight))), COPIES_LIMIT)
    return [layer, *(copy.deepcopy(layer) for _ in range(count - 1))]
