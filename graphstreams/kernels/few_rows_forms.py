"""The forms of products of few rows as plain data, and which of them can do a product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Scaling = Literal["none", "output", "block"]

FLOAT8 = torch.float8_e4m3fn
DTYPES = (torch.bfloat16, torch.float16, FLOAT8)  # of the operands
OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)
ROWS_LIMIT, SUM_ROWS_LIMIT = 64, 4
SPLITS_LIMIT = 32
OFFSET_LIMIT = 2**31  # of an element: the kernels compute with 32 bits
SCALED = 128  # elements of K, and columns of the weight, that share a scale of blocks
SHARED_MEMORY = 200 * 1024  # bytes that a program may take: of 227 KiB on an H200
THREAD_LIMIT = 64  # float32 sums that a thread keeps; with more than 255 registers in all it would spill them


@dataclass(frozen=True)
class MultiplyAndSum:
    """Multiply and sum one to four rows without tensor cores.

    `programs` programs (None: one for each tile and split) take tiles of `columns` columns in steps of `depth` elements of K,
    `stages` of which are loaded ahead. With `splits` above 1 parts of K are summed apart, and a second launch adds them. With
    `direct` each thread loads the activations that it multiplies; without, a step loads them once and hands them on through
    shared memory, as it always does if steps are loaded ahead.
    """

    columns: int = 2
    depth: int = 1024
    splits: int = 1
    programs: int | None = None
    warps: int = 4
    stages: int = 1
    direct: bool = True


@dataclass(frozen=True)
class TensorCores:
    """Multiply up to 64 rows by tensor cores. The fields are those of MultiplyAndSum.

    With `swapped` the weight is the first operand, of 64 rows or a multiple for each four warps. It then goes from shared
    memory into Hopper's tensor cores, without registers.
    """

    columns: int = 32
    depth: int = 128
    splits: int = 1
    programs: int | None = None
    warps: int = 4
    stages: int = 4
    swapped: bool = False


Form = MultiplyAndSum | TensorCores


@dataclass(frozen=True)
class Product:
    """A product `[rows, depth] @ [depth, columns]` of operands of type `dtype`, with a result of type `out`.

    Strides are in elements, those of scales 0 where one scale serves all. `scaling` is "output" for one scale a tensor, or one
    a row of the first and a column of the second operand; "block" for one a row and 128 elements of K, and one for 128 x 128
    elements of the weight.
    """

    rows: int
    columns: int
    depth: int
    dtype: torch.dtype
    out: torch.dtype
    x_strides: tuple[int, int]
    w_strides: tuple[int, int]
    scaling: Scaling = "none"
    scale_x_strides: tuple[int, int] = (0, 0)
    scale_w_strides: tuple[int, int] = (0, 0)
    biased: bool = False


def supports(product: Product, form: Form) -> bool:
    """Return whether a form can do a product."""
    return _computable(product) and _launchable(product, form) and _fits(product, form)


def form_name(form: Form) -> str:
    """Return a form in words, another text for each form."""
    kind = "sums" if isinstance(form, MultiplyAndSum) else "swapped dots" if form.swapped else "dots"
    parts = [f"{kind} {form.columns} x {form.depth}", f"{form.warps} warps", f"{form.stages} stages"]
    parts += [f"{form.splits} splits"] if form.splits > 1 else []
    parts += [f"{form.programs} programs"] if form.programs is not None else []
    parts += ["direct"] if isinstance(form, MultiplyAndSum) and form.direct else []
    return ", ".join(parts)


def fields_of(form: Form) -> dict[str, Any]:
    """Return a form as plain data, for `form_of`."""
    return asdict(form)


def form_of(fields: Mapping[str, Any]) -> Form:
    """Return the form with these fields. Raises TypeError for fields that no form has."""
    return TensorCores(**fields) if "swapped" in fields else MultiplyAndSum(**fields)


def padded_rows(rows: int) -> int:
    """Return the rows of a tile of tensor cores for so many rows."""
    return max(power_of_2(rows), 16)


def power_of_2(number: int) -> int:
    """Return the least power of 2 that is not less than a number."""
    return 1 << max(number - 1, 0).bit_length()


def _computable(product: Product) -> bool:
    """Return whether the kernels can do a product at all."""
    extents = ((product.rows, product.depth), product.x_strides), ((product.depth, product.columns), product.w_strides)
    farthest = max(sum((size - 1) * stride for size, stride in zip(*each, strict=True)) for each in extents)
    strides = (*product.x_strides, *product.w_strides, *product.scale_x_strides, *product.scale_w_strides)
    return (
        product.dtype in DTYPES
        and product.out in OUTPUTS
        and 1 <= product.rows <= ROWS_LIMIT
        and min(product.columns, product.depth) >= 1
        and min(strides) >= 0
        and farthest < OFFSET_LIMIT
    )


def _launchable(product: Product, form: Form) -> bool:
    """Return whether a form's numbers are ones that its kernel takes for a product."""
    powers = (form.columns, form.depth, form.warps)
    if any(each < 1 or each != power_of_2(each) for each in powers) or form.warps > 32 or form.stages < 1:
        return False
    if not 1 <= form.splits <= min(SPLITS_LIMIT, -(-product.depth // form.depth)):
        return False
    if form.programs is not None and form.programs < 1:
        return False
    if product.scaling == "block" and max(form.columns, form.depth) > SCALED:  # a step of a tile has one scale of the weight
        return False
    if form.splits * product.rows * product.columns >= OFFSET_LIMIT:
        return False
    if isinstance(form, MultiplyAndSum):
        return product.rows <= SUM_ROWS_LIMIT and not (form.direct and form.stages > 1)
    return _dots(product, form)


def _dots(product: Product, form: TensorCores) -> bool:
    """Return whether tensor cores take a form's tiles."""
    # The least tiles, by Triton 3.9.0, and those of the instructions for a whole weight in shared memory.
    if form.columns < 16 or form.depth * product.dtype.itemsize < 32:
        return False
    if form.swapped and (form.warps % 4 or form.columns < 16 * form.warps):
        return False
    # Tensor cores take 8-bit operands along K only.
    return product.dtype != FLOAT8 or product.w_strides[0] == 1


def _fits(product: Product, form: Form) -> bool:
    """Return whether a program's sums fit its registers, and what it loads ahead its shared memory."""
    rows = product.rows if isinstance(form, MultiplyAndSum) else padded_rows(product.rows)
    sums = form.columns * (form.depth if isinstance(form, MultiplyAndSum) else 1) * rows
    if sums > THREAD_LIMIT * 32 * form.warps:
        return False
    ahead = form.stages if isinstance(form, TensorCores) or form.stages > 1 else 0
    return ahead * (form.columns + rows) * form.depth * product.dtype.itemsize <= SHARED_MEMORY
