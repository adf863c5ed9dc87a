"""Check that functions of a kernel's source are followed where they are called."""

from __future__ import annotations

import pytest

from graphstreams.errors import UnreadableWrapper
from tests.support.triton_sources import FORGED, IMPORTS, accesses

HELPERS = """
@triton.jit
def put(p, x, at=0):
    tl.store(p + at, x)
@triton.jit
def both(p, q):
    put(p, tl.load(q))
    return q, p
@triton.jit
def either(p, q, n):
    if n:
        return p
    return q
@triton.jit
def page(table):
    return tl.load(table).to(tl.pointer_type(tl.float32))
@triton.jit
def like(x, p):
    return x.to(p.dtype)
@triton.jit
def itself(p, n):
    return itself(p, n - 1)
@triton.jit
def ping(p):
    pong(p)
@triton.jit
def pong(p):
    ping(p)
@triton.jit
def anything(p, *rest):
    tl.load(p)
@triton.jit
def plus(x, y):
    return x + y
@triton.jit
def forging(x, y):
    tl.store(x.to(tl.pointer_type(tl.float32)), y)
    return x
@triton.constexpr_function
def kind(n):
    return tl.pointer_type(tl.float32)
@triton.constexpr_function
def double(n):
    return 2 * n
@user.decorator
@triton.jit
def decorated(p):
    tl.load(p)
def plain(p):
    tl.load(p)
PAGE: tl.constexpr = tl.pointer_type(tl.float32)
SIZE = 16
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("put(b, i)", "|b"),
        ("put(x=i, p=b, at=n)", "|b"),
        ("put(a, 1)\nput(b, 1)\nx = tl.load(c)", "c|ab"),
        ("p, q = both(a, b)\ntl.store(q, tl.load(p))", "b|a"),
        ("tl.store(either(a, b, n), 1)", "|ab"),
        ("tl.store(like(a, b), 1)", "|a"),
        ("x = tl.reduce(tl.load(a + i), 0, plus)\ny = tl.associative_scan(i, 0, plus)", "a|"),
        ("x = tl.load(a + double(N) + SIZE)", "a|"),
        ("f = put\nf(b, 1)", "|b"),
        ("tl.store(b.to(PAGE), 1)", "|b"),
    ],
)
def test_functions_of_the_source_are_followed(body: str, expected: str) -> None:
    assert accesses(body, f"{IMPORTS}\nimport user", HELPERS) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("tl.store(page(c), 1)", FORGED),
        ("tl.store(like(n, a), 1)", FORGED),
        ("tl.store(tl.load(c).to(kind(N)), 1)", FORGED),
        ("tl.store(tl.load(c).to(PAGE), 1)", FORGED),
        ("x = tl.reduce(i, 0, forging)", FORGED),
        ("put(tl.load(c), 1)", "a number as an address"),
        ("x = itself(a, n)", "calls itself"),
        ("ping(a)", "calls itself"),
        ("kernel(a, b, c, n, N, T, o)", "not plainly one of Triton's"),
        ("anything(a, 1)", "any number of arguments"),
        ("decorated(a)", "not plainly one of Triton's"),
        ("plain(a)", "not plainly one of Triton's"),
        ("put(a)", "do not fit"),
        ("put(a, 1, 2, 3)", "do not fit"),
        ("put(a, 1, p=b)", "do not fit"),
        ("put(a, 1, other=b)", "do not fit"),
    ],
)
def test_functions_of_the_source_are_refused(body: str, reason: str) -> None:
    with pytest.raises(UnreadableWrapper, match=f"Triton kernel kernel .*{reason}"):
        accesses(body, f"{IMPORTS}\nimport user", HELPERS)
