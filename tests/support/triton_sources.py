"""Put the sources of Triton kernels together, and list what they touch."""

from __future__ import annotations

from graphstreams.verification.triton.accesses import read_kernel

IMPORTS = "import triton\nimport triton.language as tl"
SIGNATURE = "'a': '*fp32', 'b': '*fp32', 'c': '*i64', 'n': 'i32', 'N': 'constexpr', 'T': 'constexpr', 'o': 'constexpr'"


def source(
    body: str, imports: str = IMPORTS, more: str = "", meta: str = "'constants': {'N': 16, 'T': tl.float32, 'o': None}"
) -> str:
    """Return a user's kernel with the addresses a, b and c, a number n, constants N and T, and o, which is None."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"""
{imports}
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math

@triton_heuristics.user_autotune(
    configs=[], triton_meta={{'signature': {{{SIGNATURE}}}, {meta}}}, inductor_meta={{}},
)
@triton.jit
def kernel(a, b, c, n, N: tl.constexpr, T: tl.constexpr, o):
    i = tl.arange(0, 16)
{lines}

{more}
"""


def touched(text: str, name: str = "kernel") -> str:
    """Return the parameters that a kernel reads, and behind a bar those that it writes."""
    parameters = read_kernel(name, text, 1).parameters
    return "".join(p.name for p in parameters if p.read) + "|" + "".join(p.name for p in parameters if p.written)


def accesses(body: str, imports: str = IMPORTS, more: str = "") -> str:
    return touched(source(body, imports, more))


FORGED = "makes a pointer of a number"
