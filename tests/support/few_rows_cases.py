"""Operands of products of few rows, their results in float64, and how far a float32 sum may lie from these."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphstreams.kernels.few_rows import launch
from graphstreams.kernels.few_rows_forms import FLOAT8, SCALED, Form, Scaling

ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}  # half a unit in the last place, of 1
SMALLEST = {torch.bfloat16: 0.0, torch.float16: 2.0**-25, torch.float32: 0.0}  # half of the distance of the smallest numbers
FURTHER_OPERATIONS = 8  # on the way of an element besides the sum over K: scales, the bias, the sum of splits' ends


@dataclass(frozen=True)
class Case:
    """A product's operands: `x` `[rows, K]`, `w` `[K, columns]`, and what goes with them."""

    x: Tensor
    w: Tensor
    bias: Tensor | None = None
    scale_x: Tensor | None = None
    scale_w: Tensor | None = None
    out_dtype: torch.dtype = torch.float32

    def launched(self, form: Form) -> Tensor:
        """Return the product that a form computes."""
        return launch(form, self.x, self.w, self.bias, self.scale_x, self.scale_w, self.out_dtype)

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return the product in float64, and the same of all magnitudes."""
        x, w = _wide(self.x, self.scale_x, -1), _wide(self.w.t(), None if self.scale_w is None else self.scale_w.t(), 0).t()
        bias = 0.0 if self.bias is None else self.bias.double()
        return x @ w + bias, x.abs() @ w.abs() + abs(bias)

    def excess(self, form: Form, unit: float = 2.0**-24, rounding: float | None = None) -> float:
        """Return by how much the form's error exceeds its bound, 0 or less if nowhere.

        In any order a sum of n terms loses at most n - 1 units of the sum of their magnitudes, to first order. `unit` is what
        an operation may lose, `rounding` what the result's type may, both relative to their values.
        """
        found, (expected, magnitude) = self.launched(form), self.reference()
        assert found.shape == expected.shape and found.dtype == self.out_dtype and found.is_contiguous()
        operations = (self.x.shape[1] + FURTHER_OPERATIONS) * unit
        sums = magnitude * operations / (1 - operations)
        rounding = ROUNDING[self.out_dtype] if rounding is None else rounding
        bound = sums + (expected.abs() + sums) * rounding + SMALLEST[self.out_dtype]
        return float(((found.double() - expected).abs() - bound).max())


def _wide(rows: Tensor, scale: Tensor | None, dim: int) -> Tensor:
    """Return rows in float64, times their scales: one, one a row, or one a block of 128, of rows as well if `dim` is 0."""
    wide = rows.double()
    if scale is None:
        return wide
    if scale.numel() == 1:
        return wide * scale.double().reshape(1, 1)
    if scale.shape[1] == 1 and scale.shape[0] == rows.shape[0]:
        return wide * scale.double()
    scale = scale.double().repeat_interleave(SCALED, 1)
    scale = scale.repeat_interleave(SCALED, 0) if dim == 0 else scale
    return wide * scale[: rows.shape[0], : rows.shape[1]]


def random_case(
    rows: int, depth: int, columns: int, dtype: torch.dtype, scaling: Scaling | str = "none", device: str = "cpu", seed: int = 0
) -> Case:
    """Return normal operands, the weight as that of nn.Linear. `scaling` may be "tensor": one scale for each operand."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, depth, generator=generator).to(dtype).to(device)
    w = torch.randn(columns, depth, generator=generator).to(dtype).to(device).t()
    blocks = -(-depth // SCALED)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "tensor": ((1,), (1,)), "output": ((rows, 1), (columns, 1)), "block": ((rows, blocks), (-(-columns // SCALED), blocks)),
    }  # fmt: skip
    if scaling == "none":
        return Case(x, w)
    scale_x, scale_w = (0.5 + torch.rand(shape, generator=generator).to(device) for shape in shapes[scaling])
    return Case(x, w, scale_x=scale_x, scale_w=scale_w.t() if scale_w.dim() == 2 else scale_w)


def integer_case(rows: int, depth: int, columns: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Case:
    """Return operands of small whole numbers, whose products any order of float32 additions sums exactly."""
    generator = torch.Generator().manual_seed(seed)
    high = 3 if dtype == FLOAT8 else 9  # so that also the shorter sums of Hopper's tensor cores for float8 are exact
    x = torch.randint(1 - high, high, (rows, depth), generator=generator).float().to(dtype).to(device)
    w = torch.randint(1 - high, high, (columns, depth), generator=generator).float().to(dtype).to(device)
    return Case(x, w.t())


def with_bias(case: Case, dtype: torch.dtype) -> Case:
    """Return a case with a bias of this type too."""
    generator = torch.Generator().manual_seed(5)
    return replace(case, bias=torch.randn(case.w.shape[1], generator=generator).to(dtype).to(case.x.device))
