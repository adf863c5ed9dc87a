"""Which forms are worth timing for a product of few rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from graphstreams.kernels.few_rows_forms import (
    FLOAT8,
    SUM_ROWS_LIMIT,
    Form,
    MultiplyAndSum,
    Product,
    TensorCores,
    power_of_2,
    supports,
)

LIMIT = 28
LEAST_STEPS = 2  # of a split
WAVES = 2  # programs for each SM that splits should make

# Of weights that lie along K. A thread loads 8 to 32 elements in a step.
_SUMS = (
    MultiplyAndSum(1, 1024), MultiplyAndSum(2, 1024), MultiplyAndSum(4, 512), MultiplyAndSum(4, 512, stages=4, direct=False),
    MultiplyAndSum(4, 1024), MultiplyAndSum(4, 512, direct=False), MultiplyAndSum(1, 512, warps=2),
    MultiplyAndSum(8, 512, warps=8, stages=3, direct=False), MultiplyAndSum(8, 256), MultiplyAndSum(2, 2048, warps=8),
    MultiplyAndSum(8, 512, warps=8),
)  # fmt: skip
# Of weights that lie along N, where neighbours are of other columns.
_SUMS_ALONG_COLUMNS = (
    MultiplyAndSum(64, 32), MultiplyAndSum(64, 64, warps=8), MultiplyAndSum(128, 32, warps=8), MultiplyAndSum(256, 16, warps=8),
    MultiplyAndSum(64, 32, stages=3, direct=False), MultiplyAndSum(128, 32, warps=8, stages=3, direct=False),
)  # fmt: skip
# Of scaled blocks, of which a step has one.
_SUMS_OF_BLOCKS = (
    MultiplyAndSum(16, 128), MultiplyAndSum(32, 128), MultiplyAndSum(8, 128, warps=2),
    MultiplyAndSum(16, 128, stages=4, direct=False), MultiplyAndSum(32, 128, warps=8), MultiplyAndSum(8, 128, warps=1),
    MultiplyAndSum(32, 128, stages=4, direct=False), MultiplyAndSum(64, 128, warps=8), MultiplyAndSum(4, 128, warps=1),
)  # fmt: skip
_DOTS = (
    TensorCores(32, 128, stages=5), TensorCores(64, 128, swapped=True), TensorCores(16, 256, warps=2),
    TensorCores(64, 128), TensorCores(32, 256, stages=3), TensorCores(64, 64, stages=6, swapped=True),
    TensorCores(64, 256, stages=3, swapped=True), TensorCores(128, 64, stages=5), TensorCores(128, 128, warps=8, swapped=True),
    TensorCores(16, 128, warps=1, stages=6), TensorCores(64, 64, stages=6),
)  # fmt: skip


def candidates(product: Product, sm_count: int) -> tuple[Form, ...]:
    """Return up to 28 forms that are worth timing for a product on a GPU of so many SMs, none if no form can do it."""
    kinds = [list(_distinct(product, _dots(product, sm_count)))]
    if product.rows <= SUM_ROWS_LIMIT:
        kinds.append(list(_distinct(product, _sums(product, sm_count))))
    return tuple(form for kind in kinds for form in kind[: LIMIT // len(kinds)])


def sweep(product: Product, sm_count: int) -> tuple[Form, ...]:
    """Return the candidates and all forms of a wider grid that can do a product."""
    forms: list[Form] = []
    for columns, depth, stages in itertools.product((16, 32, 64, 128), (64, 128, 256), (3, 5)):
        dot = TensorCores(columns, depth, warps=max(1, min(8, columns // 16)), stages=stages)
        forms += [dot, replace(dot, warps=4, swapped=True), replace(dot, warps=8)]
    columns_of, depths = _tiles_of_sums(product)
    for columns, depth, warps in itertools.product(columns_of, depths, (1, 2, 4, 8)):
        form = MultiplyAndSum(columns, depth, warps=warps)
        forms += [form, replace(form, direct=False), replace(form, stages=3, direct=False)]
    split = [replace(form, splits=_splits(product, form, sm_count * waves)) for form in forms for waves in (1, 2, 4)]
    few = [replace(form, programs=count) for form in forms for count in (sm_count, sm_count // 2)]
    return tuple(_distinct(product, iter([*candidates(product, sm_count), *forms, *split, *few])))


def _tiles_of_sums(product: Product) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return numbers of columns, and of elements of K, to combine to tiles."""
    if product.scaling == "block":
        return (4, 8, 16, 32, 64), (128,)
    return ((1, 2, 4, 8), (256, 512, 1024, 2048)) if _along_depth(product) else ((64, 128, 256), (16, 32, 64))


def _dots(product: Product, sm_count: int) -> Iterator[Form]:
    forms = [_widened(product, form) for form in _DOTS]
    yield from _with_splits(product, forms, sm_count)


def _sums(product: Product, sm_count: int) -> Iterator[Form]:
    forms = _SUMS_OF_BLOCKS if product.scaling == "block" else _SUMS if _along_depth(product) else _SUMS_ALONG_COLUMNS
    whole = product.depth & -product.depth  # the greatest power of 2 that divides K, so that no step is cut off
    depth = whole if whole >= 256 else power_of_2(product.depth)
    wide = [_widened(product, form) for form in forms]
    yield from _with_splits(product, [replace(form, depth=min(form.depth, depth)) for form in wide], sm_count)


def _widened(product: Product, form: Form) -> Form:
    """Return a form with steps of twice as many elements if they have 8 bits, unless a step has to have one scale."""
    return replace(form, depth=form.depth * 2) if product.dtype == FLOAT8 and product.scaling != "block" else form


def _with_splits(product: Product, forms: list[Form], sm_count: int) -> Iterator[Form]:
    """Yield the forms in turns: with splits if tiles leave SMs idle, as they are, then some whose programs take turns.

    Of the first forms there are also such that leave half of the SMs to neighbours. On an H200 a form whose programs take turns
    was slower than one of as many blocks without, and of sums five times as slow.
    """
    first, rest = forms[:2], forms[2:]
    for form in first:
        yield from (form, replace(form, splits=_splits(product, form, WAVES * sm_count)))
        yield from (replace(form, splits=_splits(product, form, programs)) for programs in (sm_count, sm_count // 2))
    for form in rest:
        yield replace(form, splits=_splits(product, form, WAVES * sm_count))
    for form in rest:
        yield form
    for form in first:
        yield from (replace(form, programs=programs) for programs in (sm_count // 2, sm_count))


def _splits(product: Product, form: Form, programs: int) -> int:
    """Return into how many parts K has to go, a power of 2, for at most so many programs; 1 if tiles are enough."""
    tiles, steps = -(-product.columns // form.columns), -(-product.depth // form.depth)
    most = min(programs // tiles, steps // LEAST_STEPS, 16)
    return power_of_2(most + 1) // 2 if most > 1 else 1


def _along_depth(product: Product) -> bool:
    return product.w_strides[0] == 1


def _distinct(product: Product, forms: Iterator[Form]) -> Iterator[Form]:
    """Yield each form that can do a product once, without those whose programs are no fewer than their tiles."""
    seen: set[Form] = set()
    for form in forms:
        tiles = -(-product.columns // form.columns) * form.splits
        if form not in seen and (form.programs is None or form.programs < tiles) and supports(product, form):
            seen.add(form)
            yield form
