"""What kernels write, from their text: whatever is not known to read."""

from __future__ import annotations

import pytest

from graphstreams.verification.kernels import read_kernel
from graphstreams.verification.unreadable import UnreadableWrapper

IMPORTS = "import triton\nimport triton.language as tl"


def written(body: str, imports: str = IMPORTS, more: str = "") -> str:
    """Of the pointers a, b and c of a user's kernel, those that are written."""
    lines = "\n".join("    " + line for line in body.splitlines())
    source = f"""
{imports}
from torch._inductor.runtime import triton_helpers, triton_heuristics
{more}
@triton_heuristics.user_autotune(
    triton_meta={{'signature': {{'a': '*fp32', 'b': '*fp32', 'c': '*i64', 'n': 'i32'}}}}, inductor_meta={{}},
)
@triton.jit
def kernel(a, b, c, n):
    i = tl.arange(0, 16)
{lines}
"""
    return "".join(p.name for p in read_kernel("kernel", source, 1).parameters if p.written)


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("import triton.language as lang", "lang.store(b + i, lang.load(a + i))"),
        ("import triton", "triton.language.store(b + i, triton.language.load(a + i))"),
        ("from triton import language as lang", "lang.atomic_add(b + i, lang.load(a + i))"),
        ("from triton.language import store as s, load", "s(b + i, load(a + i))"),
        ("from triton.language.core import store as load, load as store", "load(b + i, store(a + i))"),
    ],
)
def test_names_are_resolved_through_the_imports(imports: str, body: str) -> None:
    assert written(body, f"{IMPORTS}\n{imports}") == "b"


@pytest.mark.parametrize(
    "imports", ["", "from user import *", "from user import language as tl", "import triton.language as tl\ntl = user"]
)
def test_a_load_that_is_not_tritons_may_write(imports: str) -> None:
    assert written("x = tl.load(a + i)", imports) == "a"


@pytest.mark.parametrize(
    "body",
    [
        "d = tl.make_tensor_descriptor(b, [n, 64], [64, 1], [1, 16])\nd.scatter(x, i, 0)",
        "d = tl.make_tensor_descriptor(b, [n], [1], [16])\nd.store([0], x)",
        "d = tl.make_tensor_descriptor(b, [n], [1], [16])\nd.atomic_add([0], x)",
        "tl.store_tensor_descriptor(tl.make_tensor_descriptor(b, [n], [1], [16]), [0], x)",
        "tl.inline_asm_elementwise('st.global.f32 [$1], $2;', '=r,l,f', [b + i, x], dtype=tl.int32, is_pure=False, pack=1)",
        "tl.map_elementwise(write, b + i)",
        "tl.extra.cuda.st_release(b, 1)",
        "tl.atomic_cas(b, 0, 1)",
        "tl.anything_new(b)",
        "triton_helpers.x_grid_barrier(b)",
        "helper(b, i)",
        "helpers.put(b + i, x)",
        "helper(1, at=b)",
        "x = (b + i).anything_new()",
        "b.store(x)",
        "for p in range(n):\n    q = b + p\n    tl.store(q, x)",
        "r = b\nfor _ in range(n):\n    tl.store(p, x) if n else None\n    p = q\n    q = r",
        "p, q = b + i, a + i\ntl.store(p, tl.load(q))",
        "if (p := b + i) is not None:\n    tl.store(p, x)",
        "while n > 0:\n    p = b[None, :]\n    tl.store(p.to(tl.int64), x)",
        "write = b.store\nwrite(x)",
        "f = lambda: b",
        "ps = [b + k for k in range(4)]",
        "with region():\n    tl.load(b)",
        "tl.store(value=x, pointer=b + i)",
        "return b",
        "where = [a, b][1]\ntl.debug_barrier(b)",
        "x[0] = b",
    ],
)
def test_what_is_not_known_to_read_writes(body: str) -> None:
    assert written(f"x = tl.load(a + i)\n{body}") == "b"


@pytest.mark.parametrize(
    "body",
    [
        "x = tl.load(b + i, mask=i < n, other=0.0).to(tl.float32)",
        "p = tl.make_block_ptr(b, (n,), (1,), (0,), (16,), (0,))\np = tl.advance(p, (16,))\nx = tl.load(p)",
        "d = tl.make_tensor_descriptor(b, [n, 64], [64, 1], [1, 16])\nx = d.load([0, 0]) + d.gather(i, 0)",
        "x = tl.load_tensor_descriptor(tl.make_tensor_descriptor(b, [n], [1], [16]), [0])",
        "b += n\nfor _ in tl.range(0, n):\n    x = tl.load(tl.multiple_of(b, 16) + i)\n    b += 16",
        "tl.assume(b.to(tl.int64) % 16 == 0)\nx = tl.load(b).to(b.dtype.element_ty)",
        "p = tl.where(i > 0, b + i, a + i)\nx = tl.load(p if n > 0 else a)",
        "x = triton_helpers.bucketize_binary_search(i, b, 8, 8, 1, 0, tl.int32, True, None, None, None, 16)",
        "x = libdevice.exp(tl.load(b + i)) + helper(tl.load(b))",
        "tl.static_assert(b.dtype.element_ty == tl.float32)\ntl.device_assert(b != a)\nx = 1.0",
    ],
)
def test_what_only_reads(body: str) -> None:
    assert written(f"{body}\ntl.store(c + i, x)") == "c"


def test_an_address_from_memory_is_refused() -> None:
    for address in ("tl.load(c).to(tl.pointer_type(tl.float32))", "tl.cast(tl.load(c), tl.pointer_type(tl.float32))"):
        with pytest.raises(UnreadableWrapper, match="makes a pointer of a number"):
            written(f"tl.store({address}, 1.0)")
    assert written("tl.store((b + 4).to(tl.pointer_type(tl.float32)), 1.0)") == "b"


def test_nested_assignments_take_no_exponential_time() -> None:
    nested = "b"
    for k in range(60):
        nested = f"(p{k} := {nested})"
    assert written(f"x = tl.load({nested} + i)") == ""
