"""Check what kernels read and write by their text: every address comes from a parameter, or the kernel is refused."""

from __future__ import annotations

import pytest

from graphstreams.errors import UnreadableWrapper
from tests.support.triton_sources import FORGED, IMPORTS, accesses, source, touched


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("import triton.language as lang", "lang.store(b + i, lang.load(a + i))"),
        ("import triton", "triton.language.store(b + i, triton.language.load(a + i))"),
        ("from triton import language as lang", "lang.store(b + i, lang.load(a + i))"),
        ("from triton.language import store as s, load", "s(b + i, load(a + i))"),
        ("from triton.language.core import store as load, load as store", "load(b + i, store(a + i))"),
    ],
)
def test_names_are_resolved_through_the_imports(imports: str, body: str) -> None:
    assert accesses(body, f"{IMPORTS}\n{imports}") == "a|b"


@pytest.mark.parametrize(
    "imports",
    [
        "import triton",
        f"{IMPORTS}\nfrom user import *",
        "import triton\nfrom user import language as tl",
        f"{IMPORTS}\nimport user\ntl = user",
        f"{IMPORTS}\ntl.store = None",
        f"{IMPORTS}\nif True:\n    import user as tl",
    ],
)
def test_a_load_that_may_not_be_tritons_is_refused(imports: str) -> None:
    with pytest.raises(UnreadableWrapper):
        accesses("x = tl.load(a + i)", imports)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = tl.load(b + i, mask=i < n, other=0.0).to(tl.float32)", "b|"),
        ("tl.store(value=1.0, pointer=b + i)", "|b"),
        ("x = tl.load(b + i)\nif x.dtype.is_floating():\n    tl.store(a + i, x)", "b|a"),
        ("tl.atomic_add(b, 1)", "b|b"),
        ("x = tl.atomic_cas(c, 0, 1)", "c|c"),
        ("(b + i).store(1.0)", "|b"),
        ("p = tl.make_block_ptr(b, (n,), (1,), (0,), (16,), (0,))\np = tl.advance(p, (16,))\nx = tl.load(p)", "b|"),
        (
            "p = tl.make_block_ptr(base=b, shape=(n,), strides=(1,), offsets=(0,), block_shape=(16,))\ntl.store(p, i)",
            "|b",
        ),
        ("d = tl.make_tensor_descriptor(b, [n, 64], [64, 1], [1, 16])\nx = d.load([0, 0]) + d.gather(i, 0)", "b|"),
        ("d = tl.make_tensor_descriptor(b, [n, 64], [64, 1], [1, 16])\nd.scatter(i, i, 0)", "|b"),
        ("d = tl.make_tensor_descriptor(b, [n], [1], [16])\nd.store([0], i)", "|b"),
        ("d = tl.make_tensor_descriptor(b, [n], [1], [16])\nd.atomic_add([0], i)", "b|b"),
        ("tl.store_tensor_descriptor(tl.make_tensor_descriptor(b, [n], [1], [16]), [0], i)", "|b"),
        ("b += n\nfor _ in tl.range(0, n):\n    x = tl.load(tl.multiple_of(b, 16) + i)\n    b += 16", "b|"),
        ("for p in range(n):\n    q = b + p\n    tl.store(q, i)", "|b"),
        ("while n > 0:\n    p = b[None, :]\n    tl.store(p, i)", "|b"),
        ("p = a\nq = b\nr = c\nfor _ in range(n):\n    tl.store(p, 1)\n    p = q\n    q = r", "|abc"),
        ("p, q = b + i, a + i\ntl.store(p, tl.load(q))", "a|b"),
        ("ps = (a, (b, c))\ntl.store(ps[1][0], tl.load(ps[0]))", "a|b"),
        ("ps = (a, b)\ntl.store(ps[n], 1)", "|ab"),
        ("p = a if n else b\ntl.store(p, 1)", "|ab"),
        ("if n:\n    p = a\nelse:\n    p = b\ntl.store(p + 1, 1)", "|ab"),
        ("p = a\nif n:\n    p = b\ntl.store(p + 1, 1)", "|ab"),
        ("p = tl.where(i > 0, b + i, a + i)\nx = tl.load(p)\ntl.store(p, x)", "ab|ab"),
        ("if (p := b + i) is not None:\n    tl.store(p, 1)", "|b"),
        ("p = a\nx = (p := b) if n else a\ntl.store(p, 1)", "|ab"),
        ("p, q = tl.split(tl.join(a + i, b + i))\ntl.store(q, 1)", "|ab"),
        ("p, q = tl.broadcast(a + i, b)\ntl.store(q, tl.load(p))", "a|b"),
        ("tl.store(tl.trans(tl.expand_dims(b + i, 0)), 1)", "|b"),
        ("a = tl.load(a + i)\ntl.store(b + i, a + 1)", "a|b"),
        ("tl.store((b + 4).to(tl.pointer_type(tl.float32)), 1.0)", "|b"),
        ("tl.store(c.to(a.dtype), 1.0)", "|c"),
        ("P: tl.constexpr = tl.pointer_type(tl.int8)\ntl.store(b.to(P) + n, 1)", "|b"),
        ("x = tl.load(b + (a.to(tl.int64) - c.to(tl.int64)))", "b|"),
        ("x = tl.load(b + (a - a))", "b|"),
        ("tl.assume(b.to(tl.int64) % 16 == 0)\nx = tl.load(b).to(b.dtype.element_ty).to(a.type.element_ty)", "b|"),
        ("x = tl.load(b).to(T)\ny = tl.zeros((N,), dtype=T)", "b|"),
        ("if o is not None:\n    tl.store(o + i, tl.load(o).to(o.dtype.element_ty))\ntl.store(b, 1)", "|b"),
        ("tl.static_assert(b.dtype.element_ty == tl.float32)\ntl.device_assert(b != a, f'{n}')", "|"),
        ("x = triton_helpers.bucketize_binary_search(i, b, 8, 8, 1, 0, tl.int32, True, None, None, None)", "b|"),
        ("x = triton_helpers.bucketize_binary_search(i, b, 8, 8, 1, 0, tl.int32, True, c, 1, 0)", "bc|"),
        ("triton_helpers.x_grid_barrier(c)", "c|c"),
        ("x = libdevice.exp(tl.load(b + i)) + tl_math.abs(tl.sum(i, 0))", "b|"),
        ("x = tl.inline_asm_elementwise('mov.b32 $0, $1;', '=r,r', [tl.load(a + i)], tl.float32, True, 1)", "a|"),
        ("x = tl.reduce(tl.load(b + i), 0, triton_helpers.maximum)", "b|"),
    ],
)
def test_what_is_read_and_written(body: str, expected: str) -> None:
    assert accesses(body) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = tl.load(c).to(tl.pointer_type(tl.float32))\ntl.store(p, 1)", FORGED),
        ("p = tl.cast(tl.load(c), tl.pointer_type(tl.float32), bitcast=True)\ntl.store(p, 1)", FORGED),
        ("p = tl.load(c).to(a.dtype)\ntl.store(p, 1)", FORGED),
        ("p = tl.load(c).to(dtype=a.type, bitcast=True)\ntl.store(p, 1)", FORGED),
        ("P: tl.constexpr = tl.pointer_type(tl.bfloat16)\np = tl.load(c).to(P)\ntl.store(p, 1)", FORGED),
        ("x = tl.load(c)\ny = x.cast(tl.pointer_type(T))", FORGED),
        ("p = n.to(tl.pointer_type(tl.float32))\ntl.store(p, 1)", FORGED),
        ("p = (n + 0).to(a.dtype)\ntl.store(p, 1)", FORGED),
        ("p = (b.to(tl.int64) - a.to(tl.int64)).to(a.dtype)\nx = tl.load(p)", FORGED),
        ("p = tl.load(c).to((a + i).type)", "may make a pointer"),
        ("p = tl.load(c).to(tl.pointer_type(tl.pointer_type(tl.float32)))", "a type of pointers to a pointer's type"),
        ("p = tl.load(tl.load(c.to(tl.pointer_type(a.dtype))))", "a type of pointers to a pointer's type"),
        ("p = tl.full((16,), n, a.dtype)\ntl.store(p, 1)", "a pointer's type"),
        ("p = tl.full((16,), n, dtype=tl.pointer_type(tl.int8))\ntl.store(p, 1)", "a pointer's type"),
        ("p = tl.zeros((16,), a.dtype) + n\ntl.store(p, 1)", "a pointer's type"),
        ("p = tl.zeros_like(b + i) + n", "an address in b to a function of numbers"),
        ("p = tl.where(i > 0, a + i, n)\ntl.store(p, 1)", "joins an address"),
        ("p = a\nif n:\n    p = tl.load(c)\ntl.store(p, 1)", "one thing or another as an address"),
        ("tl.store(n + i, 1)", "a number as an address"),
        ("x = tl.load(tl.load(c))", "a number as an address"),
        ("x = tl.load(a + b)", "an address in"),
        ("x = tl.load(n - b)", "an address in"),
        ("x = tl.load(a * 2)", "computes with an address"),
        ("x = tl.load(-a)", "computes with an address"),
        ("tl.store(a, b)", "an address in b to a function of numbers"),
        ("d = tl.make_tensor_descriptor(tl.load(c), [n], [1], [16])", "a number as an address"),
        ("p = tl.inline_asm_elementwise('mov.b64 $0, $1;', '=l,l', [n], a.dtype, True, 1)", "a pointer's type"),
        ("tl.inline_asm_elementwise('st.global.f32 [$1], $2;', '=r,l,f', [n, n], tl.int32, False, 1)", "may touch memory"),
        ("tl.inline_asm_elementwise('st.global.f32 [$1], $2;', '=r,l,f', [b + i, n], tl.int32, False, 1)", "may touch memory"),
        ("tl.inline_asm_elementwise('mov.b32 $0, $1; call f;', '=r,r', [n], tl.int32, False, 1)", "may touch memory"),
        ("tl.inline_asm_elementwise(asm='mov.b32 $0, $1;', constraints='=r,r', args=[n], dtype=tl.int32)", "may touch memory"),
        ("tl.inline_asm_elementwise('mov.b64 $0, $1;', '=l,l', [b + i], tl.int64, True, 1)", "computes|gives"),
        ("x = libdevice.exp(b)", "an address in b to a function of numbers"),
        ("tl.extern_elementwise('lib', 'f', [b], 1, is_pure=False)", "a function that is not known"),
        ("tl.extra.cuda.st_release(b, 1)", "a function that is not known"),
        ("tl.extra.cuda.gdc_wait()", "a function that is not known"),
        ("tl.anything_new(b)", "a function that is not known"),
        ("x = (b + i).anything_new()", "a function that is not known"),
        ("triton_helpers.anything_new(b)", "a function that is not known"),
        ("getattr(tl, 'store')(b, 1)", "calls a number|a function that is not known"),
        ("eval('tl.store(b, 1)')", "a function that is not known"),
        ("helper(b, i)", "a name that its source does not define"),
        ("helpers.put(b + i, 1)", "a name that its source does not define"),
        ("tl.map_elementwise(write, b + i)", "a name that its source does not define"),
        ("x = tl.reduce(i, 0, N)", "a function that is not known"),
        ("write = b.store\nwrite(1)", "an attribute of"),
        ("if n:\n    tl = n\ntl.store(b, 1)", "uses one thing or another as an address"),
        ("f = tl.load\nif n:\n    f = tl.store\nf(b, 1)", "calls one thing or another"),
        ("f = lambda: b", "an expression that is not known"),
        ("ps = [b + k for k in range(4)]", "an expression that is not known"),
        ("ps = {0: b}", "an expression that is not known"),
        ("tl.store(*(b, 1))", "unpacks arguments"),
        ("tl.store(**{'pointer': b})", "an expression that is not known|unpacks arguments"),
        ("p, *q = a, b, c", "assigns to something"),
        ("p, q = a, b, c", "unpacks 3 values into 2"),
        ("with region():\n    tl.load(b)", "a statement that is not known"),
        ("try:\n    tl.load(b)\nfinally:\n    pass", "a statement that is not known"),
        ("while n:\n    break", "a statement that is not known"),
        ("for p in (a, b):\n    tl.store(p, 1)", "a statement that is not known"),
        ("for p in zip(a, b):\n    tl.store(p, 1)", "not a range"),
        ("def f():\n    pass", "a statement that is not known"),
        ("global z\nz = b", "a statement that is not known"),
        ("del b", "a statement that is not known"),
        ("return b", "returns a value"),
        ("x = i\nx[0] = b", "assigns to something"),
        ("b.p = a", "assigns to something"),
    ],
)  # fmt: skip
def test_what_is_refused(body: str, reason: str) -> None:
    with pytest.raises(UnreadableWrapper, match=f"line 1: Triton kernel kernel .*({reason})"):
        accesses(body)


def test_a_constant_that_is_not_spelt_out_serves_as_a_number_alone() -> None:
    assert touched(source("tl.store(a + N + tl.arange(0, N), 1)", meta="'constants': {}")) == "|a"
    with pytest.raises(UnreadableWrapper, match="may make a pointer of a number"):
        touched(source("tl.store(tl.load(c).to(T), 1)", meta="'constants': {}"))
    with pytest.raises(UnreadableWrapper, match="for the type of a number"):
        touched(source("tl.store(tl.full((16,), n, T), 1)", meta="'constants': {}"))


def test_an_address_of_addresses_is_refused() -> None:
    with pytest.raises(UnreadableWrapper, match="not the address of numbers"):
        touched(source("tl.store(a, 1)").replace("'*i64'", "'**fp32'"))


def test_declared_and_found_writes_are_joined() -> None:
    text = source("tl.store(b, tl.load(a))").replace("inductor_meta={}", "inductor_meta={'mutated_arg_names': ['a']}")
    assert touched(text) == "a|ab"


@pytest.mark.parametrize("names", ["[['a']]", "'a'", "[a]", "3"])
def test_a_list_of_changed_arguments_holds_names(names: str) -> None:
    text = source("tl.store(b, 1)").replace("inductor_meta={}", f"inductor_meta={{'mutated_arg_names': {names}}}")
    with pytest.raises(UnreadableWrapper, match="no list of names"):
        touched(text)


def test_nested_assignments_take_no_exponential_time() -> None:
    nested = "b"
    for k in range(60):
        nested = f"(p{k} := {nested})"
    assert accesses(f"x = tl.load({nested} + i)") == "b|"


def test_nested_loops_and_large_kernels_end() -> None:
    start = "p18 = b\n" + "".join(f"p{k} = a\n" for k in range(18))
    loops = "".join("  " * k + f"for k{k} in range(n):\n" for k in range(18))
    chain = "  " * 18 + "; ".join(f"p{k} = p{k + 1}" for k in range(18))
    assert accesses(f"{start}{loops}{chain}\ntl.store(p0, 1)") == "|ab"
    with pytest.raises(UnreadableWrapper, match="takes too long"):
        accesses("x = (" + "0, " * 250_000 + ")")
    with pytest.raises(UnreadableWrapper, match="nested too deeply"):
        accesses("x = n" + ".T" * 2000)
    assert accesses("x = n" + ".T" * 500) == "|"
