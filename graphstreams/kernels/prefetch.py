"""Prefetch of a tensor's first bytes into the L2 cache, for a kernel that reads them later, by few blocks beside others.

On an H200 a product of one row whose weight another stream had prefetched during a top-k of 23 us took 8.3 us instead of 11.8
(29 MB, bf16), with 48 blocks that load 16 MB; more blocks or bytes gained less, and 16 blocks were too slow.

"load" and "sum" can be planned in a graph, because each program writes four bytes: torch drops a kernel that writes nothing.
It takes assembly to write all that it is given (torch 2.15.0, `_higher_order_ops/triton_kernel_wrap.py`), and kernels with
assembly that touches memory keep their place in a plan besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from graphstreams.kernels.launches import Buffer, Launch, Program

Instruction = Literal["load", "sum", "line", "bulk"]

ALIGNMENT = 16  # bytes of the start: of `cp.async.bulk.prefetch`, and of the widest loads
ROUNDED = 128  # bytes of which the size is a multiple, a line of the cache: 16 elements of up to 8 bytes, as Triton likes it
SIZE_LIMIT = 2**31  # bytes: the kernels compute with 32 bits
BULK_CAPABILITY, LINE_CAPABILITY = (9, 0), (8, 0)
LINE_BYTES = (32, 64, 128)  # that an address may stand for: one to four sectors of a line of the cache
_KERNELS: Mapping[str, str] = {
    "load": "prefetch_by_loads",
    "sum": "prefetch_by_sums",
    "line": "prefetch_by_lines",
    "bulk": "prefetch_in_bulk",
}
_NUMBERS = (1, 2, 4, 8)  # bytes of an element
_LINE = "prefetch.global.L2{} [$1];\nmov.u32 $0, 0;"
_BULK = (
    "{\n.reg .pred first;\n.reg .b32 thread;\nmov.u32 thread, %tid.x;\nsetp.eq.u32 first, thread, 0;\n"
    "@first cp.async.bulk.prefetch.L2.global [$1], $2;\nmov.u32 $0, 0;\n}"
)


@dataclass(frozen=True)
class Prefetch:
    """How to prefetch: by which instruction, with `programs` programs of `warps` warps that take `step` bytes in turns.

    "load" is a volatile load, "sum" an ordinary one whose sum is stored, "line" a prefetch of the line of an address, one
    every `line` bytes, and "bulk" one prefetch of a whole step. With `last` what "sum" and "line" bring is what the cache
    evicts last.
    """

    instruction: Instruction = "load"
    programs: int = 48
    warps: int = 4
    step: int = 8192
    line: int = 128
    last: bool = False


FORMS: tuple[Prefetch, ...] = (
    Prefetch("load"), Prefetch("load", warps=8, step=32_768), Prefetch("sum"), Prefetch("sum", last=True),
    Prefetch("line", step=16_384), Prefetch("line", step=16_384, last=True), Prefetch("line", step=4096, line=32),
    Prefetch("bulk", warps=1, step=4096), Prefetch("bulk", warps=1, step=16_384),
)  # fmt: skip


def supports(size: int, form: Prefetch, capability: tuple[int, int] = BULK_CAPABILITY) -> bool:
    """Return whether a GPU of this compute capability can prefetch `size` bytes with a form."""
    powers = (form.warps, form.step, form.line)
    if not ROUNDED <= size < SIZE_LIMIT - form.step * form.programs or form.programs < 1 or form.warps > 32:
        return False
    if any(each < 1 or each & (each - 1) for each in powers) or form.step < ALIGNMENT:
        return False
    if form.instruction == "bulk":
        return capability >= BULK_CAPABILITY and not form.last
    if form.instruction == "line":
        return form.line in LINE_BYTES and form.step >= form.line and (not form.last or capability >= LINE_CAPABILITY)
    return form.step <= 128 * 32 * form.warps and not (form.last and form.instruction == "load")


def program(size: int, form: Prefetch, itemsize: int) -> Program:
    """Return what a form does for the first `size` bytes of "x", rounded down to a multiple of 128.

    Elements have `itemsize` bytes. "load" reads an element of "after", too, so that in a graph it follows what computes that.
    Raises ValueError for what it can't do.
    """
    if not supports(size, form) or itemsize not in _NUMBERS:
        raise ValueError(f"{form} can't prefetch {size} bytes of elements of {itemsize} bytes")
    size -= size % ROUNDED
    grid = (max(1, min(form.programs, -(-size // form.step))),)
    # Loads count elements, because a pointer to other elements is one that the proof does not follow.
    unit = itemsize if form.instruction in ("load", "sum") else 1
    own: dict[str, Any] = {"step": form.step // unit}
    if form.instruction == "line":
        own.update(line=form.line, instruction=_LINE.format("::evict_last" if form.last else ""))
    elif form.instruction == "bulk":
        own["instruction"] = _BULK
    elif form.instruction == "sum":
        own.update(number=_number(itemsize), policy="evict_last" if form.last else "")
    types = {"load": torch.float32, "sum": torch.int32}
    buffers = (Buffer("out", grid, types[form.instruction]),) if form.instruction in types else ()
    written = tuple(each.name for each in buffers)
    read = ("x", "after") if form.instruction == "load" else ("x",)
    tensors = {name: name for name in (*read, *written)}
    return Program(
        buffers, (Launch(_KERNELS[form.instruction], grid, tensors, written, {"size": size // unit}, own, form.warps),)
    )


def form_name(form: Prefetch) -> str:
    """Return a form in words, another text for each form."""
    every = f" every {form.line}" if form.instruction == "line" else ""
    last = ", evicted last" if form.last else ""
    return f"{form.instruction}{every}, {form.programs} programs, {form.warps} warps, {form.step} bytes{last}"


def fields_of(form: Prefetch) -> dict[str, Any]:
    """Return a form as plain data, for `form_of`."""
    return asdict(form)


def form_of(fields: Mapping[str, Any]) -> Prefetch:
    """Return the form with these fields. Raises TypeError for fields that it does not have."""
    return Prefetch(**fields)


def kernel(name: str) -> Any:
    """Return a kernel by the name that launches have. Triton is imported here, for it need not be there otherwise."""
    from graphstreams.kernels import prefetch_kernels

    return getattr(prefetch_kernels, name)


def launch(form: Prefetch, x: torch.Tensor, size: int | None = None) -> None:
    """Enqueue the prefetch of the first `size` bytes of the memory of `x`, from its first element on; by default of all of it.

    Raises ValueError for what the form can't do, for a tensor that is not contiguous in memory, or not aligned to 16 bytes.
    """
    available = x.numel() * x.element_size()
    if not (x.is_contiguous() or (x.dim() == 2 and x.t().is_contiguous())) or x.data_ptr() % ALIGNMENT:
        raise ValueError("only memory without gaps, aligned to 16 bytes, is prefetched")
    (each,) = (work := program(min(size or available, available), form, x.element_size())).launches
    buffers = {own.name: torch.empty(own.shape, dtype=own.dtype, device=x.device) for own in work.buffers}
    tensors = {parameter: buffers.get(name, x) for parameter, name in each.tensors.items()}
    kernel(each.kernel)[each.grid](**tensors, **each.numbers, **each.constants, num_warps=each.warps)


def _number(itemsize: int) -> Any:
    """Return Triton's type of whole numbers of so many bytes."""
    import triton.language as tl

    return {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}[itemsize]
