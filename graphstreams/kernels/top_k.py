"""The forms of top-k by row length, as plain data: which kernels a form launches, on which buffers, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphstreams.kernels.launches import Buffer, Launch, Program

ROW_LIMIT = 32_768  # elements that one program keeps, and that packed counts of 16 bits take
PROGRAMS_LIMIT = 64  # every program of the next launch sums what all of these left
ROWS_LIMIT = 2**31  # the most blocks of a grid's first dimension
KEYS_LIMIT = 2**31 - 2**24  # of a row: places are numbers of 32 bits, also those behind the last element
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip
PLACES_LIMIT = 2**31  # from one program's first element to its last, which it counts with 32 bits
WARP_LIMIT = 1024  # elements that a warp keeps: with more than 32 a thread, registers are spilled
SHARED_MEMORY = 160 * 1024  # bytes that a program may take: of 227 KiB on an H200, 163 KiB on an A100
USUAL_LIMIT, LIST_LIMIT = 8192, 16_384  # elements of a list that programs load at once; that they keep at most
LONGER = 4  # times as long as usual a list may be, so that neighbours which are alike do not cost a second look at the row
_RESULTS = ("values", "indices")
_LOAD_BYTES, _COLUMNS_LIMIT = 16, 256  # that a thread loads at once; of a tile, whose copies in shared memory are padded


@dataclass(frozen=True)
class OneProgram:
    """One launch, in which one program of `warps` warps selects a row of up to 32,768 elements."""

    warps: int = 16


@dataclass(frozen=True)
class SeveralPrograms:
    """Three launches, in each of which `programs` programs share a row.

    `slack` is how many elements of its share a program of the first launch leaves in the range that it finds, and `spare` by
    which factor the part of the list that the third launch expects is longer than what rows in random order leave for it.
    The warps are those of each launch.
    """

    programs: int = 32
    slack: int = 16
    spare: float = 4.0
    warps: tuple[int, int, int] = (8, 8, 8)


Form = OneProgram | SeveralPrograms


@dataclass(frozen=True)
class DynamicLength:
    """The length of a row that each call has, in elements: `size`, which is never less than `shortest`."""

    size: int | torch.SymInt
    shortest: int


@dataclass(frozen=True)
class TopK:
    """A top-k of `rows` rows of `length` elements, whose elements are `stride` apart and rows `row_stride`.

    The number of rows may be dynamic: then it is compared with nothing, and is at least 1. If the length is dynamic, `length`
    is the greatest that a call can have, and launches are for rows of that length, of which a call uses a part.
    """

    rows: int | torch.SymInt
    length: int
    k: int
    dtype: torch.dtype
    row_stride: int | torch.SymInt
    stride: int = 1
    largest: bool = True
    dynamic: DynamicLength | None = None
    sorted: bool = False  # which launches don't do: `in_order` comes behind them

    @property
    def shortest(self) -> int:
        """Return the least length that a row can have, in elements."""
        return self.dynamic.shortest if self.dynamic else self.length

    @property
    def size(self) -> int | torch.SymInt:
        """Return the length of a row in a call, in elements."""
        return self.dynamic.size if self.dynamic else self.length


@dataclass(frozen=True)
class Choice:
    """Which form a top-k takes, None for aten's own kernels, and why."""

    form: Form | None
    reason: str
    us: float = 0.0  # that the form was measured to take; 0 if that is not known


def supports(top_k: TopK, form: Form) -> bool:
    """Return whether a form can do a top-k."""
    if top_k.dtype not in DTYPES or not (1 <= top_k.k <= top_k.shortest <= top_k.length < KEYS_LIMIT):
        return False
    if isinstance(top_k.rows, int) and not 1 <= top_k.rows < ROWS_LIMIT:
        return False
    if isinstance(form, OneProgram):
        return top_k.length * top_k.stride < PLACES_LIMIT and _fits(_power(top_k.length), form.warps, top_k.dtype)
    share = -(-top_k.length // form.programs)
    return form.programs <= PROGRAMS_LIMIT and _fits(_power(share), min(form.warps), top_k.dtype)


def program(top_k: TopK, form: Form) -> Program:
    """Return what a form does for a top-k, not sorted. Raises ValueError for a top-k that it can't do.

    With a dynamic length tiles, programs and lists are for the longest row. A program whose part of the row is empty in a call
    counts and writes nothing.
    """
    if not supports(top_k, form):
        raise ValueError(f"{form} can't do {top_k}")
    shape = (top_k.rows, top_k.k)
    results = (Buffer("values", shape, top_k.dtype), Buffer("indices", shape, torch.int64))
    if isinstance(form, OneProgram):
        return Program(results, (_row_launch(top_k, form),))
    return _several(top_k, form, results)


def form_name(form: Form) -> str:
    """Return a form in words, another text for each form."""
    if isinstance(form, OneProgram):
        return f"1 program, {form.warps} warps"
    warps = ", ".join(map(str, form.warps))
    return f"{form.programs} programs, {warps} warps, slack {form.slack}, spare {form.spare:g}"


def fields_of(form: Form) -> dict[str, Any]:
    """Return a form as plain data, for `form_of`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(form).items()}


def form_of(fields: Mapping[str, Any]) -> Form:
    """Return the form with these fields. Raises TypeError for fields that no form has."""
    if "programs" in fields:
        return SeveralPrograms(**{**fields, "warps": tuple(fields["warps"])})
    return OneProgram(**fields)


def _row_launch(top_k: TopK, form: OneProgram) -> Launch:
    numbers = {"n": top_k.size, "k": top_k.k, "row_stride": top_k.row_stride, "stride": top_k.stride}
    constants = {"largest": top_k.largest, **_tile(_power(top_k.length), top_k.dtype)}
    return Launch("top_k_row", (top_k.rows,), _named("x", *_RESULTS), _RESULTS, numbers, constants, form.warps)


def _several(top_k: TopK, form: SeveralPrograms, results: tuple[Buffer, ...]) -> Program:
    rows, length, k = top_k.rows, top_k.length, top_k.k
    tile = max(_power(-(-length // form.programs)), 32)
    chunks, usual = -(-length // tile), usual_list(length, k, form)
    capacity = max(usual, min(LONGER * usual, LIST_LIMIT))
    key = torch.int64 if top_k.dtype.itemsize == 8 else torch.int32
    buffers = (
        *results,
        Buffer("bounds", (rows, 2, form.programs), key),
        Buffer("counts", (rows, 4, chunks), torch.int32),
        Buffer("listed", (rows,), torch.int32),
        Buffer("list_keys", (rows, capacity), key),
        Buffer("list_places", (rows, capacity), torch.int32),
    )
    row = {"n": top_k.size, "row_stride": top_k.row_stride, "stride": top_k.stride}
    shared = {"largest": top_k.largest, "programs": form.programs}
    tiled = {**shared, "padded": _power(form.programs), **_tile(tile, top_k.dtype), "capacity": capacity}
    found = ("bounds", "listed")
    lists = ("bounds", "counts", "listed", "list_keys", "list_places")
    bounds_numbers = {**row, "k": k, "slack": form.slack}
    launches = (
        Launch("top_k_bounds", (rows, form.programs), _named("x", *found), found, bounds_numbers,
               {**shared, "tile": tile}, form.warps[0]),
        Launch("top_k_count", (rows, chunks), _named("x", *lists), lists[1:], row, tiled, form.warps[1]),
        Launch("top_k_write", (rows, chunks), _named("x", *_RESULTS, *lists), _RESULTS, {**row, "k": k},
               {**tiled, "padded_chunks": _power(chunks), "usual": usual}, form.warps[2]),
    )  # fmt: skip
    return Program(buffers, launches)


def _named(*names: str) -> dict[str, str]:
    """Return tensors by parameters of the same names."""
    return dict(zip(names, names, strict=True))


def usual_list(length: int, k: int, form: SeveralPrograms) -> int:
    """Return how many elements of the list the third launch expects, a power of 2.

    In a row in random order the share of each of P programs has k / P of the k first elements, give or take the root of it,
    and the range from the least to the greatest of P such bounds is some 4 of these roots wide: about 4 roots of k * P
    elements.
    """
    spread = min(k, length - k + 1) * form.programs
    return min(max(_power(int(form.spare * 4 * spread**0.5)), 16), USUAL_LIMIT)


def _tile(size: int, dtype: torch.dtype) -> dict[str, int]:
    """Return the constants of a tile of `size` elements: lines as long as a warp loads at once."""
    columns = min(size, _COLUMNS_LIMIT, 32 * _LOAD_BYTES // dtype.itemsize)
    return {"lines": size // columns, "columns": columns}


def _fits(size: int, warps: int, dtype: torch.dtype) -> bool:
    """Return whether a program of so many warps can keep a tile of `size` elements.

    Shared memory takes up to 8 bytes an element when a tile is laid out anew for its stores, and more for small types, of which
    a thread loads more at once (compiled for compute capability 9.0 by Triton 3.9.0).
    """
    return size <= min(ROW_LIMIT, WARP_LIMIT * warps, SHARED_MEMORY // 8 * dtype.itemsize)


def _power(number: int) -> int:
    """Return the least power of 2 that is not less than a number."""
    return 1 << max(number - 1, 0).bit_length()
