"""Products of few rows with a weight, as plain data: which kernels a form launches, on which buffers, and in which order.

With few rows such a product takes as long as its weight takes to come from memory. On an H200 cuBLAS reaches 32 to 73 % of the
bandwidth with one row and a cold weight, and a plain loop over the weight's rows 41 to 81 % (torch 2.15.0, bf16, six products
of DeepSeek V3.2's attention layer). Sums are in float32, in the same order in every run, but not in cuBLAS's.

If K or a stride is no multiple of 16 elements, Triton 3.9.0 loads them one by one: the result is right, and slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphstreams.kernels.few_rows_forms import (
    FLOAT8,
    SCALED,
    Form,
    MultiplyAndSum,
    Product,
    Scaling,
    padded_rows,
    power_of_2,
    supports,
)
from graphstreams.kernels.launches import Buffer, Launch, Program

FINISH_COLUMNS, FINISH_WARPS = 256, 2  # columns and warps of a program of the launch that adds splits


def product_of(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, scale_x: torch.Tensor | None = None,
    scale_w: torch.Tensor | None = None, out_dtype: torch.dtype | None = None,
) -> Product:  # fmt: skip
    """Return the product of these operands, which are those of `aten.mm` or `aten._scaled_mm`. Raises ValueError for others.

    `x` is `[rows, K]` and `w` `[K, columns]`, of any strides; `bias` has an element a column. Without `out_dtype` the result
    has the operands' type, or bfloat16 if that is float8.
    """
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[0] or x.dtype != w.dtype:
        raise ValueError(f"no product of {_told(x)} with {_told(w)}")
    if bias is not None and (tuple(bias.shape) != (w.shape[1],) or bias.stride() != (1,)):
        raise ValueError(f"a bias of {w.shape[1]} columns has to be a contiguous vector of as many, got {_told(bias)}")
    scaling, scale_x_strides, scale_w_strides = _scaling(x, w, scale_x, scale_w)
    out = out_dtype or (torch.bfloat16 if x.dtype == FLOAT8 else x.dtype)
    strides = (x.stride(0), x.stride(1)), (w.stride(0), w.stride(1))
    return Product(
        x.shape[0], w.shape[1], x.shape[1], x.dtype, out, *strides, scaling, scale_x_strides, scale_w_strides, bias is not None
    )


def program(product: Product, form: Form) -> Program:
    """Return what a form does for a product. Raises ValueError for one that it can't do."""
    if not supports(product, form):
        raise ValueError(f"{form} can't do {product}")
    result = Buffer("out", (product.rows, product.columns), product.out)
    if form.splits == 1:
        return Program((result,), (_product_launch(product, form, "out"),))
    partial = Buffer("partial", (form.splits, product.rows, product.columns), torch.float32)
    return Program((result, partial), (_product_launch(product, form, "partial"), _finishing_launch(product, form)))


def launch(
    form: Form, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, scale_x: torch.Tensor | None = None,
    scale_w: torch.Tensor | None = None, out_dtype: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return `x @ w`, times the scales, plus the bias. Operands are those of `product_of`.

    Raises ValueError for what the form can't do.
    """
    work = program(product_of(x, w, bias, scale_x, scale_w, out_dtype), form)
    return run(work, {"x": x, "w": w, "bias": bias, "scale_x": scale_x, "scale_w": scale_w})


def run(work: Program, operands: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
    """Allocate the buffers of `work`, launch its kernels on the operands, given by name, and return the result."""
    device = next(each.device for each in operands.values() if each is not None)
    buffers = {each.name: torch.empty(each.shape, dtype=each.dtype, device=device) for each in work.buffers}
    tensors = {**operands, **buffers}
    for each in work.launches:
        named = {parameter: tensors[name] for parameter, name in each.tensors.items()}
        kernel(each.kernel)[each.grid](**named, **each.numbers, **each.constants, num_warps=each.warps)
    return buffers["out"]


def kernel(name: str) -> Any:
    """Return a kernel by the name that launches have. Triton is imported here, for it need not be there otherwise."""
    from graphstreams.kernels import few_rows_dot, few_rows_splits, few_rows_sum

    return getattr({"few_rows_sum": few_rows_sum, "few_rows_dot": few_rows_dot}.get(name, few_rows_splits), name)


def _scaling(
    x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor | None, scale_w: torch.Tensor | None
) -> tuple[Scaling, tuple[int, int], tuple[int, int]]:
    if scale_x is None and scale_w is None:
        return "none", (0, 0), (0, 0)
    if scale_x is None or scale_w is None or {scale_x.dtype, scale_w.dtype} != {torch.float32}:
        raise ValueError("both operands have to have scales in float32, or none")
    rows, depth, columns = *x.shape, w.shape[1]
    if scale_x.numel() == scale_w.numel() == 1:
        return "output", (0, 0), (0, 0)
    if tuple(scale_x.shape) == (rows, 1) and tuple(scale_w.shape) == (1, columns):
        return "output", (scale_x.stride(0), 0), (0, scale_w.stride(1))
    blocks = -(-depth // SCALED)
    # A weight's scales may have more rows than blocks: cuBLAS takes a multiple of four.
    if tuple(scale_x.shape) == (rows, blocks) and _has_blocks(scale_w, blocks, -(-columns // SCALED)):
        return "block", (scale_x.stride(0), scale_x.stride(1)), (scale_w.stride(0), scale_w.stride(1))
    raise ValueError(f"scales {list(scale_x.shape)} and {list(scale_w.shape)} are for no product of {_told(x)} with {_told(w)}")


def _has_blocks(scale_w: torch.Tensor, rows: int, columns: int) -> bool:
    return scale_w.dim() == 2 and scale_w.shape[0] >= rows and scale_w.shape[1] == columns


def _told(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _product_launch(product: Product, form: Form, out: str) -> Launch:
    tiles = -(-product.columns // form.columns)
    steps = -(-product.depth // form.depth)
    numbers = {"m": product.rows, "n": product.columns, "k": product.depth}
    numbers.update(_numbers("x_stride_m", "x_stride_k", product.x_strides))
    numbers.update(_numbers("w_stride_k", "w_stride_n", product.w_strides))
    numbers.update(_numbers("scale_x_stride_m", "scale_x_stride_k", product.scale_x_strides))
    numbers.update(_numbers("scale_w_stride_k", "scale_w_stride_n", product.scale_w_strides))
    numbers.update(steps=-(-steps // form.splits), splits=form.splits)
    constants: dict[str, Any] = {"columns": form.columns, "depth": form.depth, "partial": form.splits > 1}
    constants.update(scaling=product.scaling, stages=form.stages)
    if isinstance(form, MultiplyAndSum):
        name = "few_rows_sum"
        constants.update(rows=product.rows, padded=power_of_2(product.rows), direct=form.direct)
    else:
        name = "few_rows_dot"
        exact = min(SCALED, form.depth) if product.dtype == FLOAT8 else None
        constants.update(rows=padded_rows(product.rows), swapped=form.swapped, exact=exact)
    tensors, absent = _operands(product, ("x", "w", "bias", "scale_x", "scale_w"))
    grid = (min(tiles * form.splits, form.programs or tiles * form.splits),)
    return Launch(name, grid, {**tensors, "out": out}, (out,), numbers, {**constants, **absent}, form.warps)


def _numbers(first: str, second: str, strides: tuple[int, int]) -> dict[str, int]:
    return {first: strides[0], second: strides[1]}


def _finishing_launch(product: Product, form: Form) -> Launch:
    tensors, absent = _operands(product, ("bias", "scale_x", "scale_w"))
    numbers = {"m": product.rows, "n": product.columns}
    numbers.update(scale_x_stride_m=product.scale_x_strides[0], scale_w_stride_n=product.scale_w_strides[1])
    constants = {"splits": form.splits, "columns": FINISH_COLUMNS, "scaling": product.scaling, **absent}
    tensors = {"partial": "partial", **tensors, "out": "out"}
    grid = -(-product.columns // FINISH_COLUMNS), product.rows
    return Launch("few_rows_splits", grid, tensors, ("out",), numbers, constants, FINISH_WARPS)


def _operands(product: Product, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, None]]:
    """Return which tensors a kernel is given by these parameters, and the parameters that are None."""
    missing = {"bias"} if not product.biased else set()
    missing |= {"scale_x", "scale_w"} if product.scaling == "none" else set()
    return {name: name for name in names if name not in missing}, {name: None for name in names if name in missing}
