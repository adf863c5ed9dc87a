"""Check that what prefetches survives the compiler, and which forms there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from graphstreams.kernels.prefetch import FORMS, Prefetch, fields_of, form_name, form_of, kernel, launch, program, supports
from tests.support.compiled_kernels import compiled
from tests.support.paths import ROOT

SIZE = 16 * 2**20
FETCHES = re.compile(r"^.*\b(?:ld\.(?:volatile\.)?global\S*|prefetch\.global\S*|cp\.async\.bulk\.prefetch\S*)", re.M)


@triton.jit
def _unused_loads(x, size, step: tl.constexpr):
    place = tl.program_id(0) * step + tl.arange(0, step)
    tl.load(x + place, place < size, other=0)


@triton.jit
def _pure_assembly(x, size, step: tl.constexpr):
    place = tl.program_id(0) * step + tl.arange(0, step)
    address = (x + tl.minimum(place, size - 1)).to(tl.int64)
    tl.inline_asm_elementwise("prefetch.global.L2 [$1];\nmov.u32 $0, 0;", "=r,l", [address], tl.int32, is_pure=True, pack=1)


def fetches(made: Any) -> list[str]:
    """Return the instructions of a compiled kernel that bring memory into a cache."""
    return [line.split()[-1] for line in FETCHES.findall(made.asm["ptx"])]


def fetches_of(form: Prefetch, dtype: torch.dtype) -> list[str]:
    (each,) = program(SIZE, form, dtype.itemsize).launches
    tensors = {name: torch.int32 if name == "out" else dtype for name in each.tensors}
    return fetches(compiled(kernel(each.kernel), tensors, each.numbers, each.constants, each.warps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_what_prefetches_survives_the_compiler(form: Prefetch, dtype: torch.dtype) -> None:
    found = fetches_of(form, dtype)
    threads = 32 * form.warps
    load = "ld.global.L1::evict_last.L2::cache_hint.v4.b32" if form.last else "ld.global.v4.b32"
    expected = {
        "load": ("ld.volatile.global.v4.b32", form.step // (16 * threads)),
        "sum": (load, form.step // (16 * threads)),
        "line": (f"prefetch.global.L2{'::evict_last' if form.last else ''}", max(1, form.step // form.line // threads)),
        "bulk": ("cp.async.bulk.prefetch.L2.global", 1),
    }  # fmt: skip
    instruction, count = expected[form.instruction]
    followed = [f"ld.global.b{8 * dtype.itemsize}"] if form.instruction == "load" else []
    assert found == [instruction] * count + followed


@pytest.mark.parametrize("dropped", [_unused_loads, _pure_assembly], ids=lambda each: each.__name__)
def test_what_the_compiler_drops(dropped: Any) -> None:
    assert fetches(compiled(dropped, {"x": torch.uint8}, {"size": SIZE}, {"step": 1024}, 4)) == []


def test_programs_take_steps_in_turns() -> None:
    (each,) = program(SIZE + 5, Prefetch("bulk", programs=48, warps=1, step=4096), 2).launches
    assert (each.kernel, each.grid, each.numbers, each.writes) == ("prefetch_in_bulk", (48,), {"size": SIZE}, ())
    (few,) = program(10_000, Prefetch("load", programs=48), 2).launches
    assert few.grid == (2,) and few.numbers == {"size": 4992} and few.constants == {"step": 4096}  # 78 lines of 64 elements


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_loads_and_sums_write_four_bytes_a_program(form: Prefetch) -> None:
    work = program(SIZE, replace(form, programs=20), 2)
    expected = ("out",) if form.instruction in ("load", "sum") else ()
    assert tuple(each.name for each in work.buffers) == work.launches[0].writes == expected
    assert all(each.shape == (20,) and each.dtype.itemsize == 4 for each in work.buffers)


@pytest.mark.parametrize(
    ("form", "size"),
    [
        (Prefetch(), 127),
        (Prefetch(), 2**31 - 8192),
        (Prefetch(programs=0), SIZE),
        (Prefetch(step=3000), SIZE),
        (Prefetch(warps=3), SIZE),
        (Prefetch("load", last=True), SIZE),
        (Prefetch("load", warps=1, step=8192), SIZE),  # 256 bytes a thread
        (Prefetch("bulk", last=True), SIZE),
        (Prefetch("line", line=256), SIZE),
        (Prefetch("line", step=64, line=128), SIZE),
    ],
)
def test_a_form_refuses_what_it_cannot_do(form: Prefetch, size: int) -> None:
    assert not supports(size, form)
    with pytest.raises(ValueError, match="can't prefetch"):
        program(size, form, 2)


def test_older_gpus_have_no_bulk_prefetch() -> None:
    assert not supports(SIZE, Prefetch("bulk", warps=1), (8, 0)) and supports(SIZE, Prefetch("line"), (8, 0))
    assert not supports(SIZE, Prefetch("line", last=True), (7, 5))


def test_forms_are_plain_data_with_names_of_their_own() -> None:
    forms = [*FORMS, *(replace(form, programs=16) for form in FORMS)]
    assert [form_of(fields_of(form)) for form in forms] == forms
    assert len({form_name(form) for form in forms}) == len(forms)


@pytest.mark.parametrize("x", [torch.zeros(64, 64)[:, :32], torch.zeros(1025)[1:]], ids=["gaps", "not aligned"])
def test_memory_with_gaps_or_not_aligned_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        launch(Prefetch(), x)


def test_loads_reach_every_byte_and_no_more() -> None:
    # In a process of its own, because functions are made for the interpreter when they are decorated.
    file = Path(__file__).parent / "interpreted_prefetch.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
